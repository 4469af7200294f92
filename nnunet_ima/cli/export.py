"""`nnunet-ima-export`: a hardened model for stock nnU-Net, as a model folder or as nnU-Net's model zip."""

import argparse
from pathlib import Path

from nnunet_ima.cli.common import add_checkpoint, nnunet_folder, run
from nnunet_ima.nnunet.dataset_names import dataset_name


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="nnunet-ima-export",
        description="Writes a trained model so that nnU-Net predicts with it where nnunet-ima is not installed: "
        "nnUNetv2_predict_from_modelfolder -m FOLDER, or nnUNetv2_install_pretrained_model_from_zip FILE.zip.",
    )
    result.add_argument("-d", required=True, metavar="DATASET", help="data set: D4, 4 or Dataset004_Hippocampus")
    result.add_argument("-c", default="2d", metavar="CONFIGURATION", help="[OPTIONAL] configuration; default: 2d")
    result.add_argument("-f", metavar="FOLDS", help="[OPTIONAL] folds like 0,1 or all; default: every trained one")
    result.add_argument(
        "-tr", default="nnUNetTrainerIMA", metavar="TRAINER", help="[OPTIONAL] trainer; default: nnUNetTrainerIMA"
    )
    result.add_argument(
        "-p", default="nnUNetPlansIMA", metavar="PLANS", help="[OPTIONAL] plans identifier; default: nnUNetPlansIMA"
    )
    add_checkpoint(result)
    result.add_argument(
        "-o", type=Path, required=True, metavar="FOLDER_OR_ZIP", help="a new folder, or a file ending in .zip"
    )
    return result


def export(arguments: list[str] | None = None) -> None:
    args = parser().parse_args(arguments)
    from nnunet_ima.nnunet.export import export_model

    model = nnunet_folder("nnUNet_results") / dataset_name(args.d) / f"{args.tr}__{args.p}__{args.c}"
    folds = [fold.strip() for fold in args.f.split(",")] if args.f else None
    exported = export_model(model, folds, args.chk, args.o)
    print(f"Wrote {args.o}: folds {', '.join(exported)} of {model}")
    if args.o.suffix == ".zip":
        print(f"Install with: nnUNetv2_install_pretrained_model_from_zip {args.o}")
    else:
        fold = " ".join(exported)
        print(f"Predict with: nnUNetv2_predict_from_modelfolder -m {args.o} -f {fold} -chk {args.chk} -i IN -o OUT")


def main() -> None:
    run(export)


if __name__ == "__main__":
    main()
