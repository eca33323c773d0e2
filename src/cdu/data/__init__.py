"""Data: the datasets and their files, samples on a device, splits and forget sets."""

# Importing any module of this room registers the datasets of this package.
from cdu.data import datasets as datasets
