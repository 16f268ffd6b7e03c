"""Convert a checkpoint of any origin, and prove it: python converters/convert.py IN --target TARGET OUT."""

import sys
from pathlib import Path

if not __package__:  # started by path: import this checkout, not this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import os
import re
import tempfile

from rich.console import Console
from rich.table import Table

from converters import sources, targets, verify
from converters.errors import ArgumentParser, InputError, first_few, reports_input_errors
from converters.reading import Read, Request, add_reading_arguments, certificate_path, read_checkpoint, request_from
from converters.verify import TOLERANCE, Certificate


@reports_input_errors
def main() -> int:
    """Run the command.

    Returns:
        0; 1 if the certificate failed (then nothing is written) or a framework is missing to check it; 2 for a
        user's mistake.
    """
    args = _parse()
    console = Console(highlight=False, soft_wrap=True)
    if args.list:
        _print_sources(console)
        return 0
    request, output = request_from(args), args.output
    _check_output(output, args.target)
    read = read_checkpoint(args.input, request)
    _print_read(console, args.input, read)
    for left in output.parent.glob(f".{output.name}.*"):
        console.print(f"  note: {left} was left by a run that was killed; remove it", markup=False)
    refusal = targets.find(args.target).refusal(read.checkpoint)
    if refusal is not None:
        raise InputError(f"{args.input} cannot become a file of {args.target}: {refusal}; use --target safetensors")
    if args.dry_run:
        console.print(f"would write {', '.join(map(str, _outputs(output, args.target)))}", markup=False)
        return 0
    certificate = _convert(args.input, request, read, args.target, output)
    _print_certificate(console, certificate)
    if certificate.failures:
        print(f"error: the certificate failed, nothing was written: {first_few(certificate.failures)}", file=sys.stderr)
        return 1
    console.print(f"wrote {', '.join(map(str, _outputs(output, args.target)))}", markup=False)
    if certificate.unchecked and not args.allow_unverified:
        unchecked = first_few(certificate.unchecked)
        print(f"error: not all was checked: {unchecked}; --allow-unverified accepts that", file=sys.stderr)
        return 1
    return 0


def _parse() -> argparse.Namespace:
    parser = ArgumentParser(description="Convert a checkpoint of any origin, and prove that nothing was lost.")
    parser.add_argument("input", nargs="?", type=Path, metavar="IN", help="checkpoint of any supported origin")
    parser.add_argument("output", nargs="?", type=Path, metavar="OUT", help="file to write; it must not exist")
    parser.add_argument("--target", help=f"one of: {', '.join(targets.names())}")
    add_reading_arguments(parser)
    parser.add_argument("--allow-unverified", action="store_true", help="exit with 0 though a framework is missing")
    parser.add_argument("--dry-run", action="store_true", help="say how IN is read, write nothing")
    parser.add_argument("--list", action="store_true", help="print the supported origins")
    args = parser.parse_intermixed_args()
    if not args.list and None in (args.input, args.output, args.target):
        raise InputError("expected IN --target TARGET OUT, got less; see --help, or --list for the supported origins")
    return args


def _outputs(output: Path, target: str) -> list[Path]:
    """Everything that a conversion writes; the weights last, so that they never lie there without the rest."""
    facts = verify.facts_path(output, target)
    return [*([] if facts is None else [facts]), certificate_path(output), output]


def _check_output(output: Path, target: str) -> None:
    """Refuse an output that would overwrite something, or that a framework would misread.

    Raises:
        InputError: it exists (a link included), has another suffix than its target's, or its folder cannot be written.
    """
    suffix = targets.find(target).SUFFIX
    if output.suffix != suffix:
        raise InputError(f"expected OUT to end in {suffix} for --target {target}, got {output}")
    if not re.fullmatch(r"[\w.+-]+", output.name):  # it will stand in the framework's configuration
        raise InputError(f"expected OUT's name of letters, digits and . _ + -, got {output.name!r}")
    for path in _outputs(output, target):
        if os.path.lexists(path):
            kind = "is a link" if path.is_symlink() else "exists"
            raise InputError(f"{path} {kind}; nothing is overwritten: choose another OUT, or remove it")
    if not os.access(output.parent, os.W_OK | os.X_OK) or not output.parent.is_dir():
        raise InputError(f"cannot write into {output.parent}: expected a folder; make it, or choose another OUT")


def _convert(original: Path, request: Request, read: Read, target: str, output: Path) -> Certificate:
    """Write and certify in a folder beside the output; what passes is moved to its place, the weights last."""
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        temporary = Path(folder) / output.name
        verify.write(read.checkpoint, target, temporary, output)
        certificate = verify.certify(original, request, temporary, target)
        if not certificate.failures:
            certificate_path(temporary).write_text(certificate.to_json(), encoding="utf-8")
            _place(_outputs(temporary, target), _outputs(output, target))
    return certificate


def _place(written: list[Path], final: list[Path]) -> None:
    """Give files their names, all or none of them.

    Raises:
        InputError: a name is taken by now.
    """
    placed: list[Path] = []
    try:
        for source, path in zip(written, final, strict=True):
            with source.open("rb+") as file:
                os.fsync(file.fileno())  # else a power cut can leave the new name with no content
            source.chmod(0o644)
            path.hardlink_to(source)  # which, other than renaming, overwrites nothing
            placed.append(path)
    except OSError as error:
        for done in placed:
            done.unlink()
        raise InputError(f"cannot write {path}: {error.strerror}; choose another OUT") from error


def _print_read(console: Console, path: Path, read: Read) -> None:
    source = read.checkpoint.source
    origin = " or ".join(read.sources)
    console.print(
        f"{path}: {read.checkpoint.arch} of {origin}, {source.branch} network, by {read.evidence}", markup=False
    )
    if read.dropped:
        console.print(f"  left out: {first_few(read.dropped)}", markup=False)
    pixels = read.checkpoint.pixels
    console.print(f"  pixels: {pixels.order} in 0..1, mean {pixels.mean}, deviation {pixels.std}", markup=False)
    about = sources.find(read.sources[0]).ORIGIN.note if len(read.sources) == 1 else ""
    for note in (*read.notes, *([about] if about else [])):
        console.print(f"  note: {note}", markup=False)


def _print_certificate(console: Console, certificate: Certificate) -> None:
    table = Table(title="largest relative difference to the original in torchvision", title_justify="left")
    for header in ("framework", "", "equal tensors", *TOLERANCE):
        table.add_column(header)
    for part in certificate.parts:
        tensors = f"{part.tensors[0]} of {part.tensors[1]}" if part.differences else ""
        values = [f"{max(part.differences[dtype].values()):.1e}" if part.differences else "" for dtype in TOLERANCE]
        table.add_row(part.framework, part.status, tensors, *values)
    console.print(table, soft_wrap=False)
    for part in certificate.parts:
        for reason in part.reasons:
            console.print(f"{part.framework}: {part.status}: {reason}", markup=False)


def _print_sources(console: Console) -> None:
    table = Table(title="--source", title_justify="left", show_lines=True)
    for header in ("name", "origin", "branches", "note"):
        table.add_column(header, overflow="fold")
    for name in sources.names():
        origin = sources.find(name).ORIGIN
        branches = ", ".join(sorted({form.branch for form in origin.forms}))
        table.add_row(name, origin.title, branches, origin.note)
    console.print(table, soft_wrap=False)
    console.print(f"--target: {', '.join(targets.names())}")


if __name__ == "__main__":
    raise SystemExit(main())
