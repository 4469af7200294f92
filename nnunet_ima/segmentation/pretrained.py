"""`-pretrained_weights`: a model trained for the same labels brings its segmentation heads along."""

import sys
from functools import partial
from typing import Any

import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from nnunet_ima.errors import UserError, first_line
from nnunet_ima.nnunet.safe_checkpoint import check_checkpoint
from nnunet_ima.segmentation.refusals import one_sentence

HEADS = ".seg_layers."


def keep_heads_of_same_labels(dataset_json: dict[str, Any]) -> None:
    """Make nnU-Net's training command load the heads too, in this process, where the labels are `dataset_json`'s.

    nnU-Net leaves them out, for its pretrained models come from other tasks. To harden a model is the same task:
    without its heads no slice is correct at first, and IMA has nothing to attack for epochs. nnU-Net calls the
    `load_pretrained_weights` of `nnunetv2.run.run_training` right after it has initialised the trainer.
    """
    module = sys.modules.get("nnunetv2.run.run_training")
    if module is not None and hasattr(module, "load_pretrained_weights"):
        module.load_pretrained_weights = partial(load_with_heads, dataset_json)  # type: ignore[attr-defined]


def load_with_heads(dataset_json: dict[str, Any], network: nn.Module, fname: str, verbose: bool = False) -> None:
    """nnU-Net's `load_pretrained_weights`, then the heads if the checkpoint was trained for the same labels."""
    with one_sentence():
        check_checkpoint(fname)
        try:
            load_pretrained_weights(network, fname, verbose)
            checkpoint = torch.load(fname, map_location="cpu", weights_only=False)
        except (RuntimeError, KeyError, AssertionError) as error:
            raise UserError(
                f"-pretrained_weights {fname} cannot be loaded into this network ({first_line(error)}): give a "
                "checkpoint of the same architecture, trained under plans like these."
            ) from error
    if not _same_labels(checkpoint, dataset_json):
        print("The pretrained model has other labels: its segmentation heads start anew.")
        return
    inner = network.module if isinstance(network, DistributedDataParallel) else network
    inner = inner._orig_mod if isinstance(inner, OptimizedModule) else inner
    own, theirs = inner.state_dict(), checkpoint["network_weights"]
    inner.load_state_dict(own | {name: theirs[name] for name in own if HEADS in name and name in theirs})
    print("The pretrained model has the same labels: its segmentation heads are used too.")


def _same_labels(checkpoint: dict[str, Any], dataset_json: dict[str, Any]) -> bool:
    theirs = checkpoint.get("init_args", {}).get("dataset_json", {})
    return all(theirs.get(key) == dataset_json.get(key) for key in ("labels", "regions_class_order"))
