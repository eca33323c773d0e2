"""Programs that are run by hand and leave no record: draws of a start, rates of a GPU, training in bf16, training of a linear model."""
