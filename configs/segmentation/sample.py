# The sample scenes: UPerNet in miniature; everything trains, like in the papers' protocol.
#
# Source: this project. An eighth of UPerNet's width, scenes of 192 x 144 pixels at their own size, plain batch norms,
#   whose momentum is the usual one since there are few iterations.
# Expected: see README.md, "Segmentation". A number says that the pipeline works, and nothing about ADE20K.
# Command: python transfer/segmentation.py
_base_ = "upernet.py"

norm = dict(type="BN", requires_grad=True)
loss = dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0, avg_non_ignore=True)
model = dict(
    data_preprocessor=dict(size_divisor=32, test_cfg=dict(size_divisor=32)),
    backbone=dict(norm_cfg=norm),
    decode_head=dict(norm_cfg=norm, channels=64, dropout_ratio=0.0, loss_decode=loss),
)

data = dict(type="BaseSegDataset", data_root="runs/scenes", reduce_zero_label=True)
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        **data,
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(type="RandomCrop", crop_size=(128, 128), cat_max_ratio=0.75),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PackSegInputs"),
        ],
    ),
)
test_dataloader = dict(
    num_workers=0,
    dataset=dict(
        **data,
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(type="PackSegInputs"),
        ],
    ),
)

auto_scale_lr = dict(enable=False, base_batch_size=8)
train_cfg = dict(max_iters=500)
default_hooks = dict(checkpoint=dict(interval=100))
optim_wrapper = dict(
    optimizer=dict(lr=0.05, weight_decay=0.0001),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = [dict(type="PolyLR", power=0.9, eta_min=0.0, begin=0, end=500, by_epoch=False)]
