# %% [markdown]
# # Training
#
# The original model, the model retrained without the forget set, and a second retraining with another seed. All later
# notebooks load these three. This one is for readers who know how a network is trained, and asks what the paper's
# assumption of bounded weights does to training: Adam, then projection onto the ball ‖w‖₂ ≤ C, after every step.

# %% tags=["parameters"]
dataset = "digits"
seed = 0
experiment = ""  # empty: the one made for the dataset
output = "runs"
device = "auto"

# %%
from statistics import median

from cdu.experiments.device import matrix_rate, training_operations
from cdu.experiments.run import begin
from cdu.report import chapters

run = begin("02_training", globals())

# %% [markdown]
# ## Three models
#
# w\* is trained on all of D, w̃\* on D_r, which is D without D_u, from the same initial weights. The second
# retraining starts from other weights. How far two retrainings lie apart is the yardstick for every distance.

# %%
setup = run.setup
models = {"original": setup.original, "retrain": setup.retrained, "second retraining": setup.second}

# %% [markdown]
# ## History
#
# The share of steps in which the projection was active tells whether C is a constraint or a formality: while it is
# active, the trained model is a constrained optimum, and its gradient stays away from zero.

# %%
for name, trained in models.items():
    for row in trained.history:
        values = {metric: row[metric] for metric in ("loss", "norm", "projected")}
        run.log_values(values, method=name, axis="epoch", point=row["epoch"])

# %% [markdown]
# ## Speed of the device
#
# The speed of training stands beside what this device reaches in a product of two large matrices, measured now. A share
# near one would mean that nothing but arithmetic is left. Counted are products and convolutions alone.

# %%
rate = matrix_rate(setup.device)
operations = training_operations(setup.objective(setup.original), setup.train, setup.settings.training.batch_size)
run.log_values({"matrix_rate": rate, "operations_per_image": operations})
print(f"{operations / 1e6:,.3g} million operations an image; matrix products reach {rate / 1e9:,.0f} billion a second")

# %% [markdown]
# ## Result and speed
#
# On the same platform a training that is repeated gives the same weights, and so the same hash of them.

# %%
for name, trained in models.items():
    size = len(setup.train) if name == "original" else len(setup.retain)
    speed = size / median(row["seconds"] for row in trained.history)
    share = speed * operations / rate
    speeds = {"seconds": trained.seconds, "images_per_second": speed, "matrix_share": share}
    run.log_values({**speeds, "final_projected": trained.history[-1]["projected"]}, method=name)
    run.log("weights_norm", trained.w.norm(), method=name, note=f"SHA-256 {trained.fingerprint}")
    run.log_release(name, setup.as_trained(trained), setup.sets)
    print(
        f"{name}: {trained.seconds:.1f} s, {speed:,.0f} images a second, {share:.1%} of that rate; "
        f"‖w‖₂ = {trained.w.norm():.4f}, SHA-256 of the weights {trained.fingerprint}"
    )

# %%
chapters.show("02_training", run.frame())

# %%
run.finish()
