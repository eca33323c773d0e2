"""Programs run by hand that leave no record: draws of a start, rates of a GPU, bf16, training of a linear model."""
