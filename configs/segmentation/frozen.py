# ADE20K by the papers' protocol on a backbone that stays as it is, its batch norms included: only UPerNet trains.
#
# Source: this project; all but the backbone is csail.
# Expected: nothing published.
# Command: python transfer/segmentation.py --dataset ade20k --protocol frozen --ckpt CKPT
# Not run by this project.
_base_ = "csail.py"

model = dict(backbone=dict(frozen_stages=4, norm_eval=True))
