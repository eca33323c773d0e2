"""Data: the datasets and their files, samples on a device, splits and forget sets."""

# Whoever asks for a dataset, by whatever module, finds those of this package registered.
from cdu.data import datasets as datasets
