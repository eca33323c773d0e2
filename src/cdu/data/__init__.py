"""Data: samples on a device, splits and forget sets, the datasets and their files."""
