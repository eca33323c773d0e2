"""Names of methods in records, which the report looks for."""

#: The network of an experiment, and its twin with a smooth activation, in the sections on the theory and on the bound.
NETWORK, SMOOTH = "network", "smooth network"

#: How the names of a step or network end where the step has the gradient over D_u, and where BatchNorm's statistics
#: were taken anew over D_r first.
FORGET_FORM, ANEW = ", forget gradient", ", statistics of D_r first"

#: The step by LiSSA with the λ and the constants of the authors' code.
AUTHORS = "newton, λ code, lissa"
