# What all protocols of this folder share: UPerNet on a plain ResNet, for weights in torchvision's conventions.
#
# Source: Xiao et al. 2018 as MMSegmentation has it (configs/_base_/models/upernet_r50.py), except for the backbone:
# that file's ResNetV1c has a stem of three convolutions, which stays random under weights with torchvision's 7x7 stem,
# and MMEngine only warns (DenseCL issue 3). Mean, deviation, depth and widths are replaced by those of the checkpoint,
# and `init_cfg` of the backbone names its file.
default_scope = "mmseg"
env_cfg = dict(cudnn_benchmark=False)

model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,  # images are read in the order BGR
        pad_val=0,
        seg_pad_val=255,
    ),
    pretrained=None,
    backbone=dict(
        type="ResNet",
        depth=50,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        style="pytorch",  # the stride lies in the 3x3 convolution
        deep_stem=False,
        norm_cfg=dict(type="SyncBN", requires_grad=True),
        norm_eval=False,
    ),
    decode_head=dict(
        type="UPerHead",
        in_channels=[256, 512, 1024, 2048],
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=512,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type="SyncBN", requires_grad=True),
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)

data = dict(type="ADE20KDataset", data_root="data/ADEChallengeData2016")
train_dataloader = dict(
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(**data, data_prefix=dict(img_path="images/training", seg_map_path="annotations/training")),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=4,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(**data, data_prefix=dict(img_path="images/validation", seg_map_path="annotations/validation")),
)

train_cfg = dict(type="IterBasedTrainLoop", max_iters=160000)
default_hooks = dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=5000, max_keep_ckpts=2))
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", momentum=0.9))
tta_model = dict(type="SegTTAModel")  # the mean of the softmax
