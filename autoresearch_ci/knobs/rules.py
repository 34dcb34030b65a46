"""What a name says about a tunable literal: whether it may be changed at all, on which scale, and how much it matters.

The order of the ranks is the one in which a person would try them: learning rates, then batch and model size, then the
schedule and regularisation, and last what rarely pays (epsilon, context length). The names are those of karpathy's
train.py and nanoGPT, the PyTorch examples and the optimizers and layers of torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from autoresearch_ci.experiment import Category


class Kind(StrEnum):
    """The scale on which a knob is moved."""

    LOG = "log"  # a rate: twice and half are the same step
    DECAY = "decay"  # a beta or momentum: twice and half of its distance to 1
    UNIT = "unit"  # a probability or a share
    INTEGER = "integer"  # a count
    DOUBLING = "doubling"  # a width or a batch: times a power of two, so that what divides it goes on dividing it
    BOOLEAN = "boolean"
    CHOICE = "choice"


@dataclass(frozen=True, slots=True)
class Rule:
    """What is known about the names that `words` matches.

    `kind`: None leaves it to the literal. `low`, `high`: absolute limits. `typical`: the middle of the range when the
    value is 0, which means "off". `zero`: whether a search may switch it off. `least`: a literal below it means
    something else under the same name, such as `dim=1`.
    """

    words: re.Pattern[str]
    kind: Kind | None
    category: Category
    rank: int
    low: float = 0.0
    high: float = float("inf")
    typical: float = 1.0
    zero: bool = False
    least: float = 0.0


def whole_words(pattern: str) -> re.Pattern[str]:
    """Whole words of a snake-case name."""
    return re.compile(rf"(?:^|_)(?:{pattern})\d*(?:_|$)")


# Changing one of these changes the measurement, the data or the machine, not the training: never a knob.
FORBIDDEN = whole_words(
    "seed|path|dir|dirs|directory|folder|file|filename|url|uri|device|dtype|budget|time|timeout|seconds|minutes|log|logs|"
    "logging|print|verbose|eval|evaluate|evaluation|val|valid|validate|validation|test|testing|interval|every|freq|"
    "frequency|vocab|version|port|host|world|worker|workers|id|ids|idx|index|name|project|run|wandb|tensorboard|tokenizer|"
    "checkpoint|ckpt|save|resume|load|download|backend|precision|amp|compile|compiled|fused|deterministic|benchmark|debug|"
    "profile|bos|eos|pad|ignore|classes|cuda|mps|gpu|gpus|cpu|threads|flops|peak|mfu|metric|dry|ema_beta|export|plot|report|demo"
)
# Not a knob either, unless a rule below knows the whole name: `max_steps` is a budget, `warmup_steps` is not.
DOUBTFUL = whole_words(
    "step|steps|epoch|epochs|iter|iters|iterations|train|data|dataset|sample|samples|example|examples|token|tokens|corpus|"
    "split|mean|std|img|image|pixels|kernel|stride|padding|dilation|groups|features|labels|num_labels|patience|target|params|"
    "memory|queue|prefetch|shard|shards|buffer|year|count|total|best|start|end|offset|shuffle|only|always|never|enable|h100"
)

_OPTIMIZER, _TRAINING, _ARCHITECTURE = Category.OPTIMIZER, Category.TRAINING, Category.ARCHITECTURE
RULES = (
    Rule(whole_words("label_smoothing"), Kind.UNIT, _TRAINING, 4, high=0.4),
    Rule(
        whole_words("dropout|drop_path|drop_rate|drop_prob|dropout_p|droppath|survival_prob"),
        Kind.UNIT,
        _TRAINING,
        2,
        high=0.6,
    ),
    Rule(
        whole_words(
            "(?:warmup|warmdown|cooldown|decay|lr|pct|final)_(?:ratio|frac|fraction|pct|start|share)|pct_start"
        ),
        Kind.UNIT,
        _OPTIMIZER,
        2,
        high=1.0,
    ),
    Rule(
        whole_words("min_lr|final_lr|lr_min|eta_min|end_lr"), Kind.LOG, _OPTIMIZER, 4, 1e-8, 1, typical=1e-5, zero=True
    ),
    Rule(
        whole_words("(?:warmup|warmdown|cooldown|decay)_(?:steps|iters|iterations|epochs)|warmup|lr_decay_iters"),
        None,
        _OPTIMIZER,
        3,
        high=1e6,
        typical=30,
        zero=True,
    ),
    Rule(whole_words("weight_decay|wd|l2|decoupled_decay"), Kind.LOG, _OPTIMIZER, 3, 1e-7, 3, typical=0.05, zero=True),
    Rule(
        whole_words("lr|lrs|learning_rate|learningrate|max_lr|base_lr"), Kind.LOG, _OPTIMIZER, 0, 1e-7, 30, typical=1e-3
    ),
    Rule(
        whole_words("beta|beta1|beta2|momentum|ema|ema_decay|nesterov_momentum"), Kind.DECAY, _OPTIMIZER, 3, 0.5, 0.9999
    ),
    Rule(whole_words("gamma|lr_gamma|lr_decay"), Kind.UNIT, _OPTIMIZER, 3, 0.05, 1.0),
    Rule(
        whole_words("grad_clip|clip|clip_grad|max_norm|grad_norm|max_grad_norm|clip_norm|gradient_clip_val"),
        Kind.LOG,
        _OPTIMIZER,
        3,
        1e-3,
        100,
        typical=1.0,
    ),
    Rule(whole_words("eps|epsilon"), Kind.LOG, _OPTIMIZER, 6, 1e-15, 1e-2, typical=1e-8),
    Rule(
        whole_words("(?:device|micro|per_device|per_gpu|local)_(?:train_)?batch(?:_size)?"),
        Kind.DOUBLING,
        _TRAINING,
        5,
        1,
    ),
    Rule(
        whole_words("accum|accumulation|grad_accum|accumulate|accum_steps|accumulation_steps"),
        Kind.INTEGER,
        _TRAINING,
        3,
        1,
        1024,
    ),
    Rule(
        whole_words("batch|batch_size|batchsize|bsz|total_batch_size|train_batch_size"), Kind.DOUBLING, _TRAINING, 1, 1
    ),
    Rule(
        whole_words("depth|layers|n_layer|n_layers|num_layers|num_hidden_layers|blocks|n_blocks"),
        Kind.INTEGER,
        _ARCHITECTURE,
        1,
        1,
        256,
    ),
    Rule(whole_words("head_dim|head_size|dim_head"), Kind.DOUBLING, _ARCHITECTURE, 4, 8, 512),
    Rule(
        whole_words("heads|head|n_head|n_heads|num_heads|nhead|n_kv_head|kv_heads"),
        Kind.DOUBLING,
        _ARCHITECTURE,
        5,
        1,
        256,
    ),
    Rule(whole_words("aspect_ratio"), Kind.DOUBLING, _ARCHITECTURE, 1, 1),
    Rule(
        whole_words(
            "dim|dims|embd|embed|embedding|n_embd|d_model|dmodel|d_ff|dff|ffn|width|hidden|hidden_size|hidden_dim|units|"
            "channels|n_hidden|dim_feedforward|intermediate_size|embedding_dim|embed_dim|emsize|nhid"
        ),
        Kind.DOUBLING,
        _ARCHITECTURE,
        1,
        1,
        65_536,
        least=8,
    ),
    Rule(whole_words("mlp_ratio|expansion|expand|mult|multiplier|ffn_mult|mlp_mult"), None, _ARCHITECTURE, 3, 0.25, 16),
    Rule(
        whole_words("init_std|softcap|logit_cap|soft_cap|init_scale|rope_base|rope_theta|temperature"),
        Kind.LOG,
        _ARCHITECTURE,
        4,
    ),
    Rule(whole_words("ns_steps"), Kind.INTEGER, _OPTIMIZER, 5, 1, 12),
    Rule(
        whole_words(
            "block_size|seq_len|seqlen|sequence_len|sequence_length|context|context_length|context_len|ctx|bptt|max_len"
        ),
        Kind.DOUBLING,
        _ARCHITECTURE,
        6,
        8,
        least=16,
    ),
)
UNKNOWN_RANK = 7
# Words that mark a module constant without a rule as part of the model.
ARCHITECTURAL = whole_words(
    "attn|attention|norm|qk|tie|tied|bias|residual|rope|rotary|mlp|ffn|ratio|gate|skip|window|kv|conv"
)


def snake_case(name: str) -> str:
    """`MATRIX_LR`, `--matrix-lr`, `matrixLr` → `matrix_lr`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[^a-z0-9]+", "_", spaced.lower()).strip("_")


def forbidden(name: str) -> bool:
    """Whether the name says that the literal is part of the measurement, the data or the machine."""
    # A batch per device may change, although the device may not.
    words = re.sub(r"(?:per_)?(?:device|gpu)_(?=(?:train_)?batch)", "", snake_case(name))
    return FORBIDDEN.search(words) is not None


def rule_for(name: str) -> Rule | None:
    """The first rule that knows the name; None also for a name that is forbidden."""
    if forbidden(name):
        return None
    words = snake_case(name)
    return next((rule for rule in RULES if rule.words.search(words)), None)


def unknown_rule(name: str) -> Rule | None:
    """What to assume about a named constant that no rule knows; None when it had better be left alone."""
    words = snake_case(name)
    if forbidden(name) or DOUBTFUL.search(words) or len(words) < 3:
        return None
    category = Category.ARCHITECTURE if ARCHITECTURAL.search(words) else Category.TRAINING
    return Rule(DOUBTFUL, None, category, UNKNOWN_RANK)


SHARE = whole_words(
    "frac|fraction|ratio|prob|probability|share|rate|alpha|pct"
)  # a float up to 1 under these is a share

# Positional arguments worth a name: callable → (index, name).
POSITIONAL = {
    "Dropout": (0, "p"),
    "Dropout1d": (0, "p"),
    "Dropout2d": (0, "p"),
    "AlphaDropout": (0, "p"),
    "clip_grad_norm_": (1, "max_norm"),
    "SGD": (1, "lr"),
    "Adam": (1, "lr"),
    "AdamW": (1, "lr"),
}

# Strings and references that stand for one another without any other change of the script.
FUNCTIONS = {"relu": "relu", "gelu": "gelu", "silu": "silu", "relu2": "relu"}  # relu2 is `relu(x).square()`
MODULES = ("ReLU", "GELU", "SiLU", "Mish", "ELU")
OPTIMIZERS = ("Adam", "AdamW", "NAdam", "RAdam")
OPTIMIZER_ARGUMENTS = frozenset({"params", "lr", "betas", "eps", "weight_decay"})
STRINGS = {
    "activation": ("relu", "gelu", "silu", "swish", "relu2", "relu_squared", "tanh", "mish", "elu", "swiglu", "geglu"),
    "optimizer": ("adam", "adamw", "sgd", "muon", "lion", "nadam", "radam", "rmsprop", "adagrad", "adafactor"),
    "schedule": ("constant", "linear", "cosine", "wsd", "trapezoidal", "sqrt", "exponential", "inverse_sqrt"),
    "norm": ("layernorm", "rmsnorm", "layer", "rms", "none", "pre", "post"),
}
STRING_NAMES = {
    "activation": whole_words("activation|act|act_fn|hidden_act|activation_function|nonlinearity|activation_fn"),
    "optimizer": whole_words("optimizer|optim|opt|optimizer_type"),
    "schedule": whole_words("schedule|scheduler|lr_schedule|lr_scheduler|lr_scheduler_type|decay_type"),
    "norm": whole_words("norm|norm_type|normalization"),
}
WINDOW_PATTERNS = ("L", "SL", "SSL", "SSSL", "SSLL", "SSSSSL")  # karpathy's train.py: S half, L full context
