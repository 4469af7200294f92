"""What the commands can be told without loading torch."""

ATTACK_NAMES = (
    "pgd",
    "segpgd",
    "cospgd",
    "ifgsm",
    "fgsm",
    "apgd",
    "strong",
    "square",
    "spsa",
    "transfer",
    "vanish",
    "padam-cos",
    "frequency",
)
CORRUPTION_NAMES = (
    "white",
    "gaussian",
    "poisson",
    "rician",
    "blur",
    "low-resolution",
    "bias-field",
    "ghosting",
    "motion",
    "spike",
    "undersampling",
    "low-dose",
)
