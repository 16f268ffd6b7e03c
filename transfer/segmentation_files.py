"""What a segmentation run leaves, by name: in its folder, and of each validation."""

RESULTS = "results.jsonl"
METRICS = "metrics.jsonl"  # of training
CURVES = "curves.png"

CONFUSIONS = "confusions.npz"  # of every validation image
CLASSES = "classes.csv"
PREDICTIONS = "predictions"  # label maps of the first validation images
SHOWN = "shown.json"  # which images these are
PICTURE = "segmentations.png"
