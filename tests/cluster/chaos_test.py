"""Two minutes of random faults between hosts made of network namespaces; `chaos.py --seconds 600` is the long one."""

import os

import pytest
from chaos import namespaces_work, run_chaos


@pytest.mark.timeout(900)  # two minutes of faults, and what comes before and after on a slow machine
def test_random_faults_never_give_a_wrong_or_stuck_answer():
    reason = namespaces_work()
    if reason:
        pytest.skip(reason)
    lines, wrong = run_chaos(seconds=120, seed=int(os.environ.get("TROUPE_CHAOS_SEED", "2026")))
    print("\n".join(lines))
    assert not wrong, "\n".join([*lines, *wrong])
