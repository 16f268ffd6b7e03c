"""SimCLR v2, Chen et al. 2020, converted from TensorFlow by Separius/SimCLRv2-Pytorch, without selective kernels."""

from converters.checkpoint import Pixels
from converters.keys import LEAF, Rule
from converters.sources import Form, Origin

_BLOCK = r"net\.{stage}\.blocks\.(\d+)"


def _rules() -> tuple[Rule, ...]:
    """Stem, then four stages: in a block, convolutions at 0, 2 and 4, each followed by its batch norm."""
    rules = [Rule(r"net\.0\.0\.weight", "conv1.weight"), Rule(rf"net\.0\.1\.0\.{LEAF}", r"bn1.\1")]
    for stage in range(1, 5):
        block, layer = _BLOCK.format(stage=stage), rf"layer{stage}.\1"
        for k in (1, 2, 3):
            rules.append(Rule(rf"{block}\.net\.{2 * k - 2}\.weight", rf"{layer}.conv{k}.weight"))
            # with a ReLU in one module, except the last one, which the sum follows
            rules.append(Rule(rf"{block}\.net\.{2 * k - 1}\.0\.{LEAF}", rf"{layer}.bn{k}.\2"))
        rules.append(Rule(rf"{block}\.projection\.shortcut\.0\.weight", rf"{layer}.downsample.0.weight"))
        rules.append(Rule(rf"{block}\.projection\.shortcut\.1\.0\.{LEAF}", rf"{layer}.downsample.1.\2"))
    return tuple(rules)


ORIGIN = Origin(
    title="SimCLR v2: google-research/simclr by Separius/SimCLRv2-Pytorch",
    forms=(
        Form(
            wrapper=("resnet",),
            rules=_rules(),
            drop=(r"fc\.(weight|bias)",),
            architectures=("resnet50", "resnet101"),
            pixels=Pixels(224, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
        ),
    ),
    note="images in 0..1, without mean and std; only sk0, one time as wide",
)
