"""One model on one device: what a task loads is checked first, and then stays."""

from typing import Any

import numpy as np
import pytest
import torch

from client.workbench import Workbench, pick_device
from shared.errors import DeviceError, TaskError
from shared.model import exchanged
from shared.parameters import digest


@pytest.fixture(scope="module")
def bench(tiny: Any) -> Workbench:
    return tiny.bench(tiny.protocol(model={"norm": "batch"}))


def copy(bench: Workbench, start: str) -> dict[str, Any]:
    names = exchanged(bench.classifier, start, local_norm=False)
    return {name: array.copy() for name, array in bench.arrays(names).items()}


def test_what_was_loaded_is_shown(bench: Workbench) -> None:
    """Arrays come back bit for bit, and the model uses them."""
    before = copy(bench, "head")
    loaded = {name: array + 1 for name, array in before.items()}
    bench.load(loaded)
    assert digest(copy(bench, "head")) == digest(loaded)
    np.testing.assert_array_equal(bench.classifier.fc.bias.detach().numpy(), before["fc.bias"] + 1)
    bench.load(before)


def test_half_precision_is_widened(bench: Workbench) -> None:
    """Arrays that travelled in fp16 are fp32 in the model."""
    before = copy(bench, "head")
    bench.load({name: array.astype(np.float16) for name, array in before.items()})
    assert all(array.dtype == np.float32 for array in copy(bench, "head").values())
    np.testing.assert_array_equal(copy(bench, "head")["fc.bias"], before["fc.bias"].astype(np.float16))
    bench.load(before)


@pytest.mark.parametrize("wrong", [{"nobody.weight": np.zeros(1, np.float32)}, {"fc.weight": np.zeros(3, np.float32)}])
def test_arrays_that_do_not_fit_change_nothing(bench: Workbench, wrong: dict[str, Any]) -> None:
    """An unknown name or another shape is refused before the first array is copied."""
    before = digest(copy(bench, "stem"))
    with pytest.raises(TaskError) as refusal:
        bench.load({"fc.bias": np.full(1, 9, np.float32)} | wrong)
    assert refusal.value.code == "arrays_of_wrong_form"
    assert digest(copy(bench, "stem")) == before


def test_the_frozen_part_has_a_digest_of_its_own(tiny: Any) -> None:
    """It changes with every frozen array, running statistics too, and not with what trains or counts batches."""
    protocol = tiny.protocol(model={"norm": "batch"})

    def digest_after(change: str, start: str) -> str:
        bench = tiny.bench(protocol)
        with torch.no_grad():
            bench.classifier.state_dict()[change].add_(1)
        return bench.frozen_digest(start)

    unchanged = digest_after("fc.weight", "head")
    assert digest_after("fc.bias", "head") == unchanged
    assert digest_after("bn1.num_batches_tracked", "head") == unchanged
    assert digest_after("conv1.weight", "head") != unchanged
    assert digest_after("layer4.1.bn2.running_var", "head") != unchanged
    assert digest_after("layer4.1.bn2.running_var", "layer4") == digest_after("fc.bias", "layer4")


def test_the_frozen_digest_tells_layers_apart(tiny: Any) -> None:
    """A ResNet-50 and its v1 have equal arrays and other strides; bf16 and other views give other outputs."""
    benches = [tiny.bench(tiny.protocol(model={"backbone": name})) for name in ("resnet50", "resnet50_v1")]
    benches[1].classifier.load_state_dict(benches[0].classifier.state_dict())
    with_bf16 = Workbench(benches[0].classifier, device=torch.device("cpu"), precision="bf16")
    with_bf16._bf16 = True  # what a GPU that has it would say
    mirrored = {"augmentation": {"laterality_invariant": True}, "model": {"backbone": "resnet50", "mirrored": True}}
    other = tiny.bench(tiny.protocol(**mirrored))
    zoomed = tiny.bench(tiny.protocol(model={"backbone": "resnet50", "zoomed": True}))
    for bench in (other, zoomed):
        bench.classifier.load_state_dict(benches[0].classifier.state_dict())
    assert len({bench.frozen_digest("head") for bench in (*benches, with_bf16, other, zoomed)}) == 5


def test_the_frozen_digest_is_computed_once_a_stage(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stage has its own digest, and asking again costs nothing."""
    head, layer4 = bench.frozen_digest("head"), bench.frozen_digest("layer4")
    assert head != layer4
    monkeypatch.delattr(bench, "_tensors")
    assert (bench.frozen_digest("head"), bench.frozen_digest("layer4")) == (head, layer4)


def test_auto_takes_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wish for auto is CUDA where torch sees a device and the CPU elsewhere; cpu is always the CPU."""
    for there, device in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert pick_device("auto") == torch.device(device)
        assert pick_device("cpu") == torch.device("cpu")


def test_a_missing_device_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for cuda where there is none is an error, never a silent fall-back to the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("cuda") == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="nvidia-smi"):
        pick_device("cuda")


def test_bf16_is_left_off_without_the_hardware(tiny: Any) -> None:
    """On a CPU a bf16 study computes in fp32: emulated bf16 would be many times slower."""
    bench = Workbench(tiny.bench(tiny.protocol()).classifier, device=torch.device("cpu"), precision="bf16")
    with bench.precision():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
