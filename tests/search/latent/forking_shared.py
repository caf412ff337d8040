"""Two processes that share a search in an Optuna storage, forked from one that has done little else."""

import math
import multiprocessing
import time
import warnings

import optuna

from bitsmith.blueprint import Budget
from bitsmith.search import Latent
from bitsmith.search.latent import ladder
from bitsmith.train import TrainPlan


def _work(method, problem, name, queue):
    """A process: searches, and says what it ended with."""
    found = method.search(problem)
    queue.put((name, (found.best, found.curves, found.details, found.epochs)))


def test_two_processes_share_a_search(kept_model, problem, scored, tmp_path, monkeypatch, full):
    """No network is evaluated twice on any rung, both work, and both end with the same front, curves and best."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    well = ladder.evaluate_blueprint
    fork = multiprocessing.get_context("fork")
    queue, trained = fork.SimpleQueue(), fork.SimpleQueue()

    def evaluate(problem, blueprint, plan, **settings):
        trained.put((multiprocessing.current_process().name, problem.space.key(blueprint), plan.epochs))
        time.sleep(0.05)
        return well(problem, blueprint, plan, **settings)

    monkeypatch.setattr(ladder, "evaluate_blueprint", evaluate)
    initial, proposed = (20, 10) if full else (10, 1)
    method = Latent(
        pretrained=kept_model, storage=f"sqlite:///{tmp_path}/study.db", plan=TrainPlan(epochs=2, compile="none"),
        initial=initial, evaluations=proposed, rungs=(3,), eta=4, traded=("params",),
    )  # fmt: skip
    problem = problem(budgets=[Budget.parse("macs=1G")])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        workers = [
            fork.Process(target=_work, args=(method, problem, name, queue), name=name) for name in ("one", "two")
        ]
        for worker in workers:
            worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    found = dict(queue.get() for _ in workers)
    assert found["one"] == found["two"]
    assert found["one"][2]["front"]
    assert found["one"][2]["evaluations"] == initial + proposed
    done = []
    while not trained.empty():
        done.append(trained.get())
    assert {name for name, _, _ in done} == {"one", "two"}
    rungs = [[network for _, network, epochs in done if epochs == n] for n in (2, 3)]
    assert [len(rung) for rung in rungs] == [initial + proposed, math.ceil((initial + proposed) / 4)]
    assert all(len(set(rung)) == len(rung) for rung in rungs)
