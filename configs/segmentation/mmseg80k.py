# ADE20K by the standard protocol of the field in half the iterations.
#
# Source: open-mmlab/mmsegmentation, configs/upernet/upernet_r50_4xb4-80k_ade20k-512x512.py, with a plain ResNet in
#   place of ResNetV1c (see upernet.py).
# Expected for supervised weights and ResNetV1c (mIoU, single runs): 40.70, at several scales 41.81 (its README).
# Command: python transfer/segmentation.py --dataset ade20k --protocol mmseg80k --ckpt CKPT
# Not run by this project.
_base_ = "mmseg160k.py"

train_cfg = dict(max_iters=80000)
param_scheduler = [dict(type="PolyLR", power=0.9, eta_min=0.0001, begin=0, end=80000, by_epoch=False)]
