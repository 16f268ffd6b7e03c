# ADE20K, a quick look: mmseg80k with a quarter of the iterations.
#
# Source: this project. For choosing among checkpoints, not for comparing with published numbers.
# Expected: nothing published.
# Command: python transfer/segmentation.py --dataset ade20k --protocol short --ckpt CKPT
# Not run by this project.
_base_ = "mmseg80k.py"

train_cfg = dict(max_iters=20000)
param_scheduler = [dict(type="PolyLR", power=0.9, eta_min=0.0001, begin=0, end=20000, by_epoch=False)]
