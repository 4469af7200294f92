"""Reports as HTML files, from the templates in `report/templates`."""

from jinja2 import Environment, PackageLoader, select_autoescape


def new_environment() -> Environment:
    """Where the reports' templates are read from; what is filled in is escaped."""
    return Environment(
        loader=PackageLoader("nnunet_ima.report"),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
