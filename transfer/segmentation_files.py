"""What lies in the folder of a segmentation run, by name."""

RESULTS = "results.jsonl"
PROOF = "proof.json"  # what was shown before the first iteration
METRICS = "metrics.jsonl"  # of training
CONFUSIONS = "confusions.npz"  # of every validation image, at the end
PREDICTIONS = "predictions"  # label maps of the first validation images
SHOWN = "shown.json"  # which images these are
