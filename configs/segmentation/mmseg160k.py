# ADE20K by the standard protocol of the field, 160,000 iterations: everything trains.
#
# Source: open-mmlab/mmsegmentation, configs/upernet/upernet_r50_4xb4-160k_ade20k-512x512.py, with a plain ResNet in
#   place of ResNetV1c (see upernet.py). --tta: its test at six scales, mirrored and not.
# Expected for supervised weights and ResNetV1c (mIoU, single runs): 42.05, at several scales 42.78 (its README).
# Command: python transfer/segmentation.py --dataset ade20k --protocol mmseg160k --ckpt CKPT
# Not run by this project.
_base_ = "upernet.py"

env_cfg = dict(cudnn_benchmark=True)  # all images have one size

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    auxiliary_head=dict(
        type="FCNHead",
        in_channels=1024,
        in_index=2,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type="SyncBN", requires_grad=True),
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=0.4),
    ),
)

train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(type="RandomResize", scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
            dict(type="RandomCrop", crop_size=(512, 512), cat_max_ratio=0.75),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PhotoMetricDistortion"),
            dict(type="PackSegInputs"),
        ],
    ),
)
test_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="Resize", scale=(2048, 512), keep_ratio=True),
            dict(type="LoadAnnotations"),  # behind Resize: the truth keeps its size
            dict(type="PackSegInputs"),
        ],
    ),
)
tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="TestTimeAug",
        transforms=[
            [dict(type="Resize", scale_factor=factor, keep_ratio=True) for factor in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)],
            [dict(type="RandomFlip", prob=prob, direction="horizontal") for prob in (0.0, 1.0)],
            [dict(type="LoadAnnotations")],
            [dict(type="PackSegInputs")],
        ],
    ),
]

auto_scale_lr = dict(enable=False, base_batch_size=16)
train_cfg = dict(max_iters=160000)
optim_wrapper = dict(
    optimizer=dict(lr=0.01, weight_decay=0.0005),
)
param_scheduler = [dict(type="PolyLR", power=0.9, eta_min=0.0001, begin=0, end=160000, by_epoch=False)]
