"""Command lines that cannot be right, and some that are: their options and values."""

from __future__ import annotations

SHORT = "--epochs 1 --schedule none --batch_size 256 --method.steps 1 --validation_size 50"
_NAN = ("nan", ".nan", "inf", "-.inf", "1e999", "x", "", "[]", "{}", "1,5", "0x", "\udcff")
_WHOLE = ("-1", "1.5", "nan", "inf", "1e999", "x", "", "[1]", "\udcff", "9" * 30, "9" * 5000, "-" + "9" * 30)
_COUNT = ("0", *_WHOLE)
_IMAGES = tuple(value for value in _WHOLE if value != "9" * 30)  # more images than there are means all of them
_NAME = ("nosuch", "", "\udcff", "a\nb", "\x1b[31mred", "../..", "x" * 5000, "os.system", "__import__", "-")
_RUN = (
    "nowhere", "file", "file/x", "empty", "loop", "broken", "/dev/null", "/dev/zero", "/dev/full", "/proc/self/mem",
    "", "x" * 300, "x" * 5000, "\udcff", "a\nb", "\x1b[31mred", "fifo", "binary", "utf16", "bomb", "deep", "huge",
    "scalar", "self", "/proc/1", "~nobody/x", "device",
)  # fmt: skip
_FILE = (
    "nowhere.yaml", "file", "empty", "loop", "broken", "/dev/null", "/dev/zero", "/dev/full", "/proc/self/mem", "fifo",
    "binary/recipe.yaml", "utf16/recipe.yaml", "bomb/recipe.yaml", "deep/recipe.yaml", "huge/recipe.yaml",
    "scalar/recipe.yaml", "x" * 300, "", "\udcff.yaml", "\x1b[31m.yaml",
)  # fmt: skip
_FOLDER_OUT = (
    "/proc/x", "/sys/x", "/dev/null", "/dev/null/x", "/dev/full", "/dev/full/x", "/proc/self/fd/x", "file", "file/x",
    "loop", "broken/x", "x" * 300, "x/" * 3000, "full", "device", "fifo", "",
)  # fmt: skip
_FILE_OUT = (
    "/proc/x.html", "/sys/x.html", "/dev/null/x.html", "empty", "file/x.html", "loop", "x" * 300 + ".html", "", ".",
    "/", "fifo", "report.exe", "/dev/zero",
)  # fmt: skip

# A line that is right but for what is added: its command, and options with values that they cannot have.
GRAMMAR: dict[str, dict[str, tuple[str, ...]]] = {
    f"train {SHORT} --out new": {
        "--config": _FILE + _NAME,
        "--epochs": _COUNT,
        "--batch_size": ("0", "-1", "1.5", "nan", "x", "", "[1]"),
        "--validation_size": _WHOLE,
        "--validate_every": _COUNT[:8],
        "--checkpoint_every": _COUNT[:8],
        "--seed": _WHOLE,
        "--weight": ("-1", *_NAN),
        "--norm_weight": ("-1", *_NAN),
        "--long_tail": ("0", "1", "-1", *_NAN),
        "--train_size": (*_COUNT[:9], "100000"),
        "--modes": ("os.system", "unknown", *_NAME),
        "--weighting": ("os.system", "dro", *_NAME),
        "--head": ("os.system", "torch.nn.Linear", *_NAME),
        "--select": _NAME,
        "--clip_norm": ("0", "-1", *_NAN),
        "--prototype_lr_factor": ("-1", *_NAN),
        "--optimizer.lr": ("-1", *_NAN),
        "--optimizer.momentum": ("-1", *_NAN),
        "--optimizer.weight_decay": ("-1", *_NAN),
        "--optimizer": ("LBFGS", "SparseAdam", "Optimizer", "torch.optim.Nothing", "torch.nn.Linear", *_NAME),
        "--model": ("torch.nn.Linear", "os.system", "builtins.dict", "torch.load", "protoat.Objective", *_NAME),
        "--method": ("Method", "os.system", "torch.load", "FreAT", *_NAME),
        "--method.steps": _COUNT[:9],
        "--method.step_size": ("-1", "0", "1/0", "8/0", *_NAN),
        "--method.loss": ("os.system", "torch.load", *_NAME),
        "--regularizer": ("os.system", "Regularizer", *_NAME),
        "--regularizer.prototypes_per_class": _COUNT[:9],
        "--regularizer.scale": ("-1", *_NAN),
        "--regularizer.gamma": ("-1", "0", *_NAN),
        "--threat.eps": ("0", "2", "1/0", "8", *_NAN),
        "--threat.norm": _NAME,
        "--data": ("os.system", "torch.load", *_NAME),
        "--groups": ("0", "-1", "3", "11", "1.5", "{}", "{a: [0]}", "[]", "\udcff"),
        "--augment.padding": _WHOLE[:8],
        "--schedule": ("os.system", *_NAME),
        "--averaging": ("2", "-1", "nan", *_NAME),
        "--precision": _NAME,
        "--compile": ("maybe", "2", ""),
        "--memory_format": _NAME,
        "--initialise.run": _RUN,
        "--out": (*_FOLDER_OUT, "other-recipe"),
        "--no-such-option": ("1",),
    },
    "pretrain --epochs 1 --schedule none --batch_size 512 --method.steps 1 --out new": {
        "--method": ("PGDAT", *_NAME),
        "--method.temperature": ("0", "-1", *_NAN),
        "--method.steps": _COUNT[:8],
        "--optimizer.lr": ("-1", *_NAN),
        "--out": _FOLDER_OUT,
        "--config": (*_FILE, "digits"),
        "--validation_size": ("50", "-1", "x"),
    },
    "evaluate run --n 20 --attacks clean": {
        "": _RUN,
        "--attacks": ("pgd0", "pgd-1", "pgd1.5", "pgd10@0", "pgd10@9", "pgd10@nan", "pgd10@1/0", "pgd10x0", *_NAME),
        "--n": ("0", *_IMAGES),
        "--batch-size": _COUNT[:9],
        "--budget-seconds": ("0", "-1", "nan", "x", "", "-inf"),
        "--weights": ("nowhere.safetensors", "/dev/zero", *_NAME),
        "--threat.eps": ("0", "2", "1/0", "nan", "x", ""),
        "--threat.norm": _NAME,
        "--head": _NAME,
        "--out": _FOLDER_OUT,
        "--mean": ("0.5", "x"),
        "--data": ("Digits", *_NAME[:4]),
    },
    "evaluate --data Digits --threat.eps 0.1 --out new --n 20 --attacks clean --model torchvision:resnet18": {
        "--weights": _RUN,
        "--model": (
            "os:system", "torch:load", "torchvision:nosuch", "timm:nosuch", "os:environ", "nosuch.module:f", ":", "a:",
            ":b", "builtins:exec", "json:loads", "", "\udcff:x", "torchvision:", "protoat:nosuch", "file:x",
        ),
        "--data": ("nosuch", "", "os.system", "\udcff"),
        "--mean": ("nan", "x", "0.5 0.5 0.5 0.5"),
        "--std": ("0", "-1", "nan", "inf", "x"),
        "--threat.eps": ("0", "nan", "x"),
        "--groups": ("3", "0", "x"),
    },
    "audit run --n 20 --checks A1": {
        "": _RUN,
        "--n": ("0", *_IMAGES),
        "--batch-size": _COUNT[:9],
        "--checks": ("A0", "Z9", *_NAME),
        "--surrogate": _RUN,
        "--weights": _NAME,
        "--out": _FOLDER_OUT,
    },
    "predict run file": {
        "": (*_NAME, "nowhere", "loop", "/dev/zero", "fifo"),
        "--weights": _NAME,
        "--batch-size": _COUNT[:9],
        "--format": _NAME,
        "--out": _FILE_OUT,
    },
    "export run --format safetensors --n 20 --out new": {
        "--format": _NAME,
        "--n": ("0", *_IMAGES),
        "--out": _FOLDER_OUT,
    },
    "push run": {"": _NAME},
    "pull hf://user/name": {"": _NAME, "--out": _FOLDER_OUT},
    "compare run": {"": (*_RUN, "run", "unmeasured")},
    "report run --images 20 --out new.html": {"": _RUN, "--images": _IMAGES, "--out": _FILE_OUT},
    "show": {"": _RUN},
    "ls": {"": ("nowhere", "file", "file/x", "loop", "broken", "/dev/null", "", "x" * 300, "\udcff", "fifo")},
    "rm --yes": {"": (*_RUN, ".", "/", "..", "link")},
    "gc": {"": ("nowhere", "file", "file/x", "loop", "broken", "/dev/null", "", "x" * 300, "\udcff", "fifo")},
    "table 2 --rows ours --columns MNIST --store new": {
        "--rows": _NAME,
        "--columns": _NAME,
        "--budget": (*_FILE, *_NAME),
        "--store": ("file", "file/x", "/proc/x", "/dev/null/x", "loop", "/sys/x", ""),
        "--jobs": _COUNT,
        "--seeds": _WHOLE,
        "--executor": _NAME,
        "--executor-options": ("x", ""),
        "--format": _NAME,
        "--out": _FILE_OUT[:7],
    },
    "table": {"": ("0", "12", "-1", "nan", *_NAME)},
    "figure": {"": ("0", "-1", "nan", *_NAME)},
    "figure 1 run --out new.html": {
        "": _RUN,
        "--images": ("-1", "nan", "x", "1.5"),
        "--attack": _NAME,
        "--classes": _NAME[:4],
        "--out": _FILE_OUT,
    },
    "demo": {"--out": ("/proc/x", "/dev/null/x", "file", "file/x", "loop", "/sys/x")},
    "data": {"": _NAME, "--root": (), "--download": ("", "nosuch")},
    "": {"": _NAME},
}  # fmt: skip
GOOD = (
    "show run", "ls .", "compare run other", "report run --images 0", "data", "table 2 --dry-run", "table", "figure",
    "train --help", "evaluate --attacks.help", "evaluate run --n 20 --attacks clean", "gc . --dry-run", "--help",
    "audit run --n 20 --checks A1 C1", f"train {SHORT} --out new", "figure 1 --out new.html", "--version",
    "show named/Zürich\x1b[31m", "ls named", "table 2 --rows ours --columns MNIST --format latex --dry-run",
)  # fmt: skip
