"""Sharded retraining: what a request yields is what training on the rows left yields, at the cost that is expected."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import softmax

from cdu.data.samples import Samples
from cdu.errors import CduError
from cdu.models.objective import parameter_vector
from cdu.models.settings import TrainingSettings
from cdu.models.training import Trained, train
from cdu.seeding import generator, seed_for, seeded
from cdu.unlearning import sharded
from cdu.unlearning.sharded import ShardedRecipe, deal, expected_share, slice_epochs, train_sharded


def blobs(count, seed=0):
    """Two classes in four dimensions, overlapping."""
    draws = generator(seed, "blobs")
    targets = torch.arange(count) % 2
    inputs = torch.randn(count, 4, generator=draws, dtype=torch.float64) + targets.unsqueeze(1)
    return Samples(inputs, targets, dtype=torch.float64)


def network(seed, layers=(nn.Tanh,)):
    """A small network with BatchNorm, whose buffers belong to a checkpoint too."""
    with seeded(seed):
        return nn.Sequential(
            nn.Linear(4, 3), nn.BatchNorm1d(3), *(layer() for layer in layers), nn.Linear(3, 2)
        ).double()


def recipe_of(seed=0, epochs=3, build=network):
    return ShardedRecipe(build, TrainingSettings(epochs=epochs, batch_size=5), seed)


def same(one, other):
    """Whether two ensembles hold the same bits in every stage of every shard."""
    pairs = list(zip(itertools.chain(*one.stages), itertools.chain(*other.stages), strict=True))
    return all(
        torch.equal(a.w, b.w)
        and all(torch.equal(x, y) for x, y in zip(a.model.buffers(), b.model.buffers(), strict=True))
        for a, b in pairs
    )


@pytest.mark.parametrize(("rows", "shards", "slices"), [(11, 2, 3), (40, 4, 1), (100, 7, 5)])
def test_every_row_is_dealt_once_and_slices_are_alike_in_size(rows, shards, slices):
    dealt = deal(rows, shards, slices, seed=1)
    assert len(dealt) == shards
    assert {len(shard) for shard in dealt} == {slices}
    assert torch.cat([part for shard in dealt for part in shard]).sort().values.equal(torch.arange(rows))
    for shard in dealt:
        assert max(map(len, shard)) - min(map(len, shard)) <= 1
    totals = [sum(map(len, shard)) for shard in dealt]
    assert max(totals) - min(totals) <= 1
    again, other = deal(rows, shards, slices, seed=1), deal(rows, shards, slices, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(itertools.chain(*dealt), itertools.chain(*again), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(itertools.chain(*dealt), itertools.chain(*other), strict=True))


@pytest.mark.parametrize(("epochs", "slices"), [(1, 1), (50, 4), (10, 3), (3, 5), (50, 20), (17, 6)])
def test_slices_share_the_sample_passes_of_ordinary_training(epochs, slices):
    chosen = slice_epochs(epochs, slices)
    assert min(chosen) >= 1
    passes = sum(count * stage / slices for stage, count in enumerate(chosen, start=1))
    assert abs(passes - epochs) <= 0.5
    if 2 * epochs % (slices + 1) == 0:
        assert set(chosen) == {2 * epochs // (slices + 1)}


@pytest.mark.parametrize("seed", range(3))
def test_a_request_yields_bit_for_bit_what_training_on_the_rows_left_yields(seed):
    samples, shards = blobs(30, seed), deal(30, 3, 2, seed)
    ensemble = train_sharded(recipe_of(seed), samples, shards)
    rows = torch.randperm(30, generator=generator(seed, "request"))[:2]
    left = torch.ones(30, dtype=torch.bool)
    left[rows] = False
    forgotten = ensemble.forget(rows)
    fresh = train_sharded(recipe_of(seed), samples, shards, left)
    assert same(forgotten.ensemble, fresh)
    assert not same(ensemble, fresh)
    # Nor do the numbers of the forgotten rows reach what is trained.
    changed = samples.inputs.clone()
    changed[rows] = 1e9
    assert same(
        fresh, train_sharded(recipe_of(seed), Samples(changed, samples.targets, dtype=torch.float64), shards, left)
    )


def test_requests_one_after_another_equal_one_request():
    ensemble = train_sharded(recipe_of(), blobs(30), deal(30, 3, 2, 0))
    both = ensemble.forget(torch.tensor([3, 21])).ensemble
    assert same(ensemble.forget(torch.tensor([21])).ensemble.forget(torch.tensor([3])).ensemble, both)


def test_only_stages_from_the_first_slice_touched_are_trained_again():
    shards = deal(60, 4, 3, 0)
    ensemble = train_sharded(recipe_of(epochs=4), blobs(60), shards)
    row = shards[2][1][0]
    forgotten = ensemble.forget(row.reshape(1))
    for number, (before, after) in enumerate(zip(ensemble.stages, forgotten.ensemble.stages, strict=True)):
        kept = [one is other for one, other in zip(before, after, strict=True)]
        assert kept == ([True] * 4 if number != 2 else [True, True, False, False])
    # Two epochs a stage; of 15 rows of the shard 9 are left in two slices, 14 in three.
    assert forgotten.passes == 2 * (9 + 14)
    assert forgotten.total == 3 * 2 * (5 + 10 + 15) + 2 * (5 + 9 + 14)
    assert forgotten.share == forgotten.passes / forgotten.total


def test_one_shard_of_one_slice_is_ordinary_training():
    samples, recipe = blobs(30), recipe_of(4)
    rows = deal(30, 1, 1, 9)[0][0]
    (found,) = train_sharded(recipe, samples, deal(30, 1, 1, 9)).models
    plain = train(
        network(seed_for(4, "shard", 0)),
        samples.subset(rows),
        recipe.training,
        seed_for(4, "shard", 0, "slice", 1),
    )
    assert torch.equal(found.w, plain.w)


def test_the_ensemble_averages_probabilities_or_counts_votes():
    samples = blobs(60)
    ensemble = train_sharded(recipe_of(), samples, deal(60, 3, 2, 0))
    assert len(ensemble.models) == 3
    outputs = []
    for one in ensemble.models:
        nn.utils.vector_to_parameters(one.w, one.model.parameters())
        outputs.append(one.model.eval()(samples.inputs).detach())
    mean = sum(softmax(one, dim=1) for one in outputs) / 3
    assert torch.allclose(ensemble.probabilities(samples), mean, rtol=1e-12)
    votes = sum((one.argmax(dim=1) == 1).double() for one in outputs) / 3
    assert torch.allclose(ensemble.probabilities(samples, "majority")[:, 1], votes)
    assert ((votes > 0) & (votes < 1)).sum() > 0


def test_a_shard_without_rows_has_no_vote_and_one_that_loses_a_slice_goes_on():
    samples, shards = blobs(24), deal(24, 3, 2, 0)
    ensemble = train_sharded(recipe_of(), samples, shards)
    without = ensemble.forget(shards[1][0]).ensemble
    assert len(without.models) == 3
    assert same(without, train_sharded(recipe_of(), samples, shards, without.left))
    emptied = without.forget(shards[1][1]).ensemble
    assert len(emptied.models) == 2
    assert torch.allclose(emptied.probabilities(samples).sum(dim=1), torch.ones(24, dtype=torch.float64))


@pytest.mark.parametrize(
    ("n", "k", "r", "n_u", "epochs"), [(9, 2, 2, 2, None), (8, 3, 2, 3, 3), (7, 1, 3, 1, 4), (6, 2, 1, 5, 2)]
)
def test_the_expected_share_is_the_mean_over_all_requests(n, k, r, n_u, epochs):
    shards = deal(n, k, r, 0)
    weights = [1] * r if epochs is None else slice_epochs(epochs, r)
    shares = []
    for request in itertools.combinations(range(n), n_u):
        paid = total = 0
        for shard in shards:
            for stage in range(r):
                rows = set(torch.cat(shard[: stage + 1]).tolist())
                total += weights[stage] * len(rows)
                paid += weights[stage] * len(rows) * bool(rows & set(request))
        shares.append(paid / total)
    assert expected_share(n, k, r, n_u, epochs) == pytest.approx(sum(shares) / math.comb(n, n_u), rel=1e-12)


def test_the_expected_share_is_what_random_requests_cost(monkeypatch):
    # What a request costs is counted, so that nothing has to be trained.
    monkeypatch.setattr(sharded, "train", lambda model, *_, **__: Trained(model, parameter_vector(model), []))
    recipe, rows, request = recipe_of(epochs=2, build=lambda seed: nn.Linear(4, 2).double()), 60, 2
    ensemble = train_sharded(recipe, blobs(rows), deal(rows, 4, 3, 0))
    draws = [torch.randperm(rows, generator=generator(0, "draw", number))[:request] for number in range(150)]
    shares = torch.tensor([ensemble.forget(one).share for one in draws])
    error = shares.std() / math.sqrt(len(draws))
    # The forgotten rows, a thirtieth, are not passed over again.
    assert abs(shares.mean() - expected_share(rows, 4, 3, request, 2)) <= 4 * error + 1 / 30
    assert error < 0.02


def test_slices_save_nothing_where_every_shard_is_touched_early_and_shards_save_in_proportion():
    assert expected_share(1000, 20, 1, 1) == pytest.approx(1 / 20, rel=1e-12)
    # One row: the source's 2/3 + 1/(3r) of a shard, for equal epochs a stage.
    for slices in (2, 5, 10):
        assert expected_share(1000, 20, slices, 1) == pytest.approx((2 / 3 + 1 / (3 * slices)) / 20, rel=1e-12)
    assert expected_share(1000, 20, 5, 900) > 0.999
    shares = [expected_share(1000, 20, 5, count) for count in (1, 10, 100, 1000)]
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_requests_that_cannot_be_answered_are_refused():
    samples, shards = blobs(20), deal(20, 2, 2, 0)
    ensemble = train_sharded(recipe_of(), samples, shards)
    with pytest.raises(CduError, match="at least one"):
        ensemble.forget(torch.tensor([], dtype=torch.long))
    with pytest.raises(CduError, match="the rows 5 to 20, there are 0 to 19"):
        ensemble.forget(torch.tensor([5, 20]))
    with pytest.raises(CduError, match="lists a row twice"):
        ensemble.forget(torch.tensor([5, 5]))
    with pytest.raises(CduError, match="all rows that are left"):
        ensemble.forget(torch.arange(20))
    with pytest.raises(CduError, match=r"1 rows were forgotten before, the first is 5"):
        ensemble.forget(torch.tensor([5])).ensemble.forget(torch.tensor([1, 5]))
    with pytest.raises(CduError, match="neither 'mean' nor 'majority'"):
        ensemble.probabilities(samples, "median")
    with pytest.raises(CduError, match="dealt for 20 rows, the samples are 60"):
        train_sharded(recipe_of(), blobs(60), shards)
    with pytest.raises(CduError, match="leave a slice empty"):
        deal(20, 7, 3, 0)
    with pytest.raises(CduError, match="give 3 epochs at least, or 3 slices at most"):
        slice_epochs(2, 5)
    with pytest.raises(CduError, match="11 of 10 rows"):
        expected_share(10, 2, 2, 11)
