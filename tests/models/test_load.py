"""load_model: every form of a spec, weights, the replaced classifier, and every message."""

import sys
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bitsmith.errors import RecipeError
from bitsmith.models import load_model, resnet8

SHAPE = (3, 16, 16)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


_NETS = """
import torch
from torch import nn

def net(outputs=1000):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6), nn.Linear(6, outputs))

def no_arguments():
    return net()

def with_classes(classes):
    return net(classes)

class Net(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.body = net(classes)
    def forward(self, x):
        return self.body(x)

ready = net(4)

def conv_head():
    return nn.Sequential(nn.Conv2d(3, 20, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())

def linear_inside():
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 8), nn.Unflatten(1, (2, 4)),
                         nn.Flatten(), nn.Softmax(1), nn.LayerNorm(8), nn.ConstantPad1d((0, 1), 0.0))

def norm_behind():
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 5), nn.LayerNorm(5))

def map_output():
    return nn.Conv2d(3, 5, 1)

def dict_output():
    class Strange(nn.Module):
        def forward(self, x):
            return {"out": x, "features": x}
    return Strange()

def two_outputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = net(6)
        def forward(self, x):
            return {"logits": self.body(x), "features": x}
    return Two()

def one_in_a_tuple():
    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = net(9)
        def forward(self, x):
            return (self.body(x),)
    return One()

def gives_a_list():
    return [1, 2]

def fails():
    raise KeyError("no such file\\nsecond line")

number = 3
"""


@pytest.fixture
def nets(here):
    (here / "my_nets.py").write_text(_NETS)
    return here


def _same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


class TestBuiltIn:
    @pytest.mark.parametrize("name", ["resnet8", "resnet20", "edmips_resnet18"])
    @pytest.mark.parametrize(("classes", "shape"), [(7, (1, 28, 28)), (10, (3, 32, 32))])
    def test_classes_and_channels_follow_the_data(self, name, classes, shape):
        net, notes = load_model(name, classes=classes, shape=shape)
        assert notes == []
        assert net.training
        assert net.eval()(torch.zeros(1, *shape)).shape == (1, classes)

    def test_the_seed_decides_and_the_global_state_stays(self):
        torch.manual_seed(5)
        wanted = torch.rand(3)
        torch.manual_seed(5)
        first, same, other = (load_model("resnet8", classes=10, shape=SHAPE, seed=s)[0] for s in (1, 1, 2))
        assert torch.equal(torch.rand(3), wanted)
        assert _same(first, same)
        assert not _same(first, other)
        torch.manual_seed(1)
        assert _same(first, resnet8())

    def test_probing_leaves_no_trace(self):
        net, _ = load_model("resnet8", classes=10, shape=SHAPE)
        assert all(not m._forward_hooks for m in net.modules())
        torch.manual_seed(0)
        assert torch.equal(net.bn1.running_mean, resnet8().bn1.running_mean)


class TestTorchvision:
    @pytest.mark.parametrize(
        ("name", "shape"),
        [("mobilenet_v2", (3, 32, 32)), ("squeezenet1_1", (3, 32, 32)), ("googlenet", (3, 32, 32)),
         ("inception_v3", (3, 75, 75))],
    )  # fmt: skip
    def test_networks_come_with_the_classes_of_the_data(self, name, shape):
        net, notes = load_model(f"torchvision:{name}", classes=6, shape=shape)
        assert net(torch.randn(2, *shape)).shape == (2, 6)
        auxiliary = name in ("googlenet", "inception_v3")
        assert notes == ([f"{name}: built without its auxiliary classifiers"] if auxiliary else [])

    def test_weights_of_1000_classes_load_before_the_classifier_is_replaced(self, tmp_path):
        from torchvision.models import mobilenet_v3_small

        torch.manual_seed(3)
        trained = mobilenet_v3_small(weights=None)
        torch.save(trained.state_dict(), tmp_path / "w.pth")
        net, notes = load_model(
            "torchvision:mobilenet_v3_small", classes=10, shape=(3, 32, 32), weights=tmp_path / "w.pth"
        )
        assert notes == ["classifier classifier.3: 1000 -> 10 classes, newly initialized"]
        got, wanted = net.state_dict(), trained.state_dict()
        for name in wanted:
            if not name.startswith("classifier.3"):
                assert torch.equal(got[name], wanted[name]), name
        assert got["classifier.3.weight"].shape == (10, 1024)

    def test_auxiliary_weights_are_left_out(self, tmp_path):
        from torchvision.models import googlenet

        trained = googlenet(weights=None, aux_logits=True, init_weights=False, num_classes=4)
        save_file(trained.state_dict(), tmp_path / "w.safetensors")
        net, notes = load_model(
            "torchvision:googlenet", classes=4, shape=(3, 32, 32), weights=tmp_path / "w.safetensors"
        )
        assert notes == ["googlenet: built without its auxiliary classifiers"]
        assert torch.equal(net.fc.weight, trained.fc.weight)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("mobilenet_v9", "no classification network called 'mobilenet_v9'; did you mean mobilenet_v2 or"),
            ("", "no classification network called ''$"),
            ("fasterrcnn_resnet50_fpn", "no classification network called 'fasterrcnn_resnet50_fpn'"),
        ],
    )
    def test_unknown_names(self, name, message):
        with pytest.raises(RecipeError, match=message):
            load_model(f"torchvision:{name}", classes=10, shape=SHAPE)

    def test_grey_images_in_a_color_network(self):
        with pytest.raises(
            RecipeError, match=r"can't take an input of shape \(1, 28, 28\) .*expected input.* 3 channels"
        ):
            load_model("torchvision:resnet18", classes=10, shape=(1, 28, 28))


class TestOfTheUser:
    def test_with_classes(self, nets):
        net, notes = load_model("my_nets:with_classes", classes=9, shape=SHAPE)
        assert notes == []
        assert net[5].out_features == 9

    def test_a_class_is_a_function_too(self, nets):
        net, notes = load_model("my_nets:Net", classes=9, shape=SHAPE)
        assert notes == []
        assert net.body[5].out_features == 9

    def test_without_arguments_the_last_linear_layer_is_replaced(self, nets):
        net, notes = load_model("my_nets:no_arguments", classes=9, shape=SHAPE, seed=4)
        assert notes == ["classifier 5: 1000 -> 9 classes, newly initialized"]
        assert (net[4].out_features, net[5].out_features) == (6, 9)
        assert net(torch.zeros(2, *SHAPE)).shape == (2, 9)
        assert _same(net, load_model("my_nets:no_arguments", classes=9, shape=SHAPE, seed=4)[0])

    def test_the_replacement_keeps_the_absence_of_a_bias(self, here):
        (here / "plain.py").write_text(
            "from torch import nn\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(768, 5, bias=False))\n"
        )
        net, _ = load_model("plain:net", classes=2, shape=SHAPE)
        assert net[1].bias is None

    def test_a_module_instance_is_copied(self, nets):
        first, notes = load_model("my_nets:ready", classes=2, shape=SHAPE)
        second, _ = load_model("my_nets:ready", classes=4, shape=SHAPE)
        assert notes == ["classifier 5: 4 -> 2 classes, newly initialized"]
        original = sys.modules["my_nets"].ready
        assert original[5].out_features == 4
        assert _same(second, original)
        assert second is not original
        assert first[0].weight is not original[0].weight

    def test_a_module_inside_a_package(self, here):
        (here / "pack").mkdir()
        (here / "pack" / "__init__.py").write_text("")
        (here / "pack" / "deep.py").write_text(
            "from torch import nn\nfrom pack.parts import width\n"
            "def net(*, classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(width, classes))\n"
        )
        (here / "pack" / "parts.py").write_text("width = 768\n")
        net, _ = load_model("pack.deep:net", classes=3, shape=SHAPE)
        assert net[1].out_features == 3

    def test_the_path_is_as_before(self, nets):
        before = list(sys.path)
        load_model("my_nets:net", classes=2, shape=SHAPE)
        with pytest.raises(RecipeError):
            load_model("no_such_module_here:net", classes=2, shape=SHAPE)
        assert sys.path == before

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("resnet9", "unknown model 'resnet9'; known are resnet8, resnet8_slim, .*, torchvision:NAME and"),
            (":net", "unknown model ':net'"),
            ("my_nets:", "unknown model 'my_nets:'"),
            ("no_such_module_here:net", "importing no_such_module_here failed: ModuleNotFoundError: No module named"),
            ("my_nets:missing", r"my_nets \(.*my_nets.py\) has no attribute 'missing'"),
            ("my_nets:number", r"holds a int, not a function, called 'number'"),
            ("my_nets:fails", r"calling fails failed: KeyError: 'no such file"),
            ("my_nets:gives_a_list", "must give a torch.nn.Module, but gave a list"),
            ("my_nets:dict_output", r"must give one tensor \(N, classes\) for a batch of 2, got dict; .* --output KEY"),
            ("my_nets:map_output", r"must give one tensor .* got \(2, 5, 16, 16\)"),
            ("my_nets:conv_head", "gives 20 outputs, the data has 9 classes, .* doesn't end in a Linear.* classes="),
            ("my_nets:linear_inside", "gives 9 outputs"),
            ("my_nets:norm_behind", "classifier 1: 5 -> 9 classes, .*, but what follows it can't take that"),
        ],
    )  # fmt: skip
    def test_what_can_go_wrong(self, nets, spec, message):
        classes = 8 if spec.endswith("linear_inside") else 9
        with pytest.raises(RecipeError, match=message):
            load_model(spec, classes=classes, shape=SHAPE)

    def test_one_of_several_outputs(self, nets):
        chosen, notes = load_model("my_nets:two_outputs", classes=9, shape=(3, 16, 16), output="logits")
        assert chosen(torch.zeros(2, 3, 16, 16))["logits"].shape == (2, 9)
        assert len(notes) == 1
        load_model("my_nets:one_in_a_tuple", classes=9, shape=(3, 16, 16))
        with pytest.raises(RecipeError, match="can't take an input"):
            load_model("my_nets:two_outputs", classes=9, shape=(3, 16, 16), output="missing")

    def test_a_module_that_fails_while_importing(self, here):
        (here / "broken.py").write_text("1 / 0\n")
        with pytest.raises(RecipeError, match="importing broken failed: ZeroDivisionError: division by zero"):
            load_model("broken:net", classes=2, shape=SHAPE)

    def test_a_module_that_leaves_python(self, here):
        (here / "leaves.py").write_text("import sys\nsys.exit(3)\n")
        with pytest.raises(RecipeError, match="importing leaves failed: SystemExit: 3"):
            load_model("leaves:net", classes=2, shape=SHAPE)

    def test_the_input_shape_is_named_with_torchs_reason(self, nets):
        with pytest.raises(
            RecipeError, match=r"'my_nets:net' can't take an input of shape \(1, 8, 8\) .*RuntimeError: "
        ):
            load_model("my_nets:net", classes=2, shape=(1, 8, 8))


class TestWeights:
    @pytest.fixture
    def trained(self):
        torch.manual_seed(9)
        return resnet8()

    def _load(self, path, **options):
        return load_model("resnet8", **{"classes": 10, "shape": SHAPE, "weights": path, **options})

    @pytest.mark.parametrize(
        "form", ["plain", "wrapped", "module", "wrapped module", "safetensors", "module safetensors"]
    )
    def test_every_form_is_read(self, tmp_path, trained, form):
        state = trained.state_dict()
        if "module" in form:
            state = OrderedDict((f"module.{k}", v) for k, v in state.items())
        path = tmp_path / ("w.safetensors" if "safetensors" in form else "w.pt")
        if "safetensors" in form:
            save_file(dict(state), path)
        else:
            torch.save({"state_dict": state, "epoch": 3} if "wrapped" in form else state, path)
        net, notes = self._load(path)
        assert notes == []
        assert _same(net, trained)

    def test_files_without_batch_counters_are_read(self, tmp_path, trained):
        state = {k: v for k, v in trained.state_dict().items() if not k.endswith("num_batches_tracked")}
        torch.save(state, tmp_path / "old.pt")
        net, _ = self._load(tmp_path / "old.pt")
        assert torch.equal(net.layer3[0].conv2.weight, trained.layer3[0].conv2.weight)

    def test_another_number_of_classes_in_the_file(self, tmp_path, trained):
        torch.save(trained.state_dict(), tmp_path / "w.pt")
        net, notes = self._load(tmp_path / "w.pt", classes=4)
        assert notes == ["classifier fc: 10 -> 4 classes, newly initialized"]
        assert net.fc.weight.shape == (4, 64)
        assert torch.equal(net.conv1.weight, trained.conv1.weight)

    def test_weights_of_a_users_network_load_before_the_replacement(self, nets):
        source, _ = load_model("my_nets:net", classes=1000, shape=SHAPE, seed=8)
        torch.save(source.state_dict(), nets / "w.pt")
        net, notes = load_model("my_nets:net", classes=2, shape=SHAPE, weights=nets / "w.pt")
        assert notes == ["classifier 5: 1000 -> 2 classes, newly initialized"]
        assert torch.equal(net[4].weight, source[4].weight)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"conv1.weight": None}, "don't fit the network; missing: conv1.weight$"),
            ({"fc.weight": torch.tensor(1.0)}, r"of another shape: fc.weight \(\) instead of \(10, 64\)"),
            ({"extra": torch.zeros(1)}, "don't fit the network; unexpected: extra$"),
            (
                {"conv1.weight": torch.zeros(16, 1, 3, 3)},
                r"of another shape: conv1.weight \(16, 1, 3, 3\) instead of \(16, 3, 3, 3\)",
            ),
            ({f"x{i}": torch.zeros(1) for i in range(6)}, "unexpected: x0, x1, x2, x3 and 2 more"),
            ({"aux1.conv.weight": torch.zeros(1)}, "unexpected: aux1.conv.weight"),
            ({"conv1.weight": None, "stem.weight": torch.zeros(1)}, "missing: conv1.weight; unexpected: stem.weight"),
        ],
    )
    def test_a_mismatch_lists_the_names(self, tmp_path, trained, change, message):
        state = {k: v for k, v in {**trained.state_dict(), **change}.items() if v is not None}
        torch.save(state, tmp_path / "w.pt")
        with pytest.raises(RecipeError, match=message):
            self._load(tmp_path / "w.pt")

    @pytest.mark.parametrize("suffix", ["pt", "safetensors"])
    def test_files_that_are_no_weights(self, tmp_path, suffix):
        path = tmp_path / f"w.{suffix}"
        with pytest.raises(RecipeError, match=r"the weights .* don't exist"):
            self._load(path)
        for content in (b"not weights at all", b"hello\n", b""):
            path.write_bytes(content)
            with pytest.raises(RecipeError, match=rf"w\.{suffix} can't be read: .*; save a plain state_dict"):
                self._load(path)

    def test_a_pickled_module_is_not_unpickled(self, tmp_path, trained):
        torch.save(trained, tmp_path / "whole.pt")
        with pytest.raises(RecipeError, match=r"whole\.pt can't be read: UnpicklingError: it holds some.*") as caught:
            self._load(tmp_path / "whole.pt")
        assert "torch.load" not in str(caught.value)
        assert "trust" not in str(caught.value)

    @pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], torch.zeros(3)])
    def test_a_file_without_a_state_dict(self, tmp_path, content):
        torch.save(content, tmp_path / "w.pt")
        with pytest.raises(RecipeError, match="holds no state_dict"):
            self._load(tmp_path / "w.pt")


def test_torchvisions_start_leaves_the_random_state_alone():
    torch.manual_seed(0)
    wanted = torch.rand(1)
    torch.manual_seed(0)
    assert isinstance(load_model("torchvision:resnet18", classes=3, shape=(3, 32, 32))[0], nn.Module)
    assert torch.equal(torch.rand(1), wanted)
