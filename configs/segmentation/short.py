# ADE20K in an eighth of the standard protocol's iterations, to tell early whether weights are any good.
#
# Source: this project; all but the length is mmseg160k.
# Command: python transfer/segmentation.py --dataset ade20k --protocol short --ckpt CKPT
# Not run by this project.
_base_ = "mmseg160k.py"

train_cfg = dict(max_iters=20000)
param_scheduler = [dict(type="PolyLR", power=0.9, eta_min=0.0001, begin=0, end=20000, by_epoch=False)]
