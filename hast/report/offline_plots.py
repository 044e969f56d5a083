"""Let `dvc plots show` work without a network: DVC's page takes its scripts from a CDN, ours has
them inside."""

from configparser import ConfigParser
from pathlib import Path

from hast.errors import InputError, needs
from hast.report import templates

_TEMPLATE = Path("tmp/hast-plots.html")  # in .dvc, where Git ignores it
_VEGA_LITE = "5.20"  # DVC's templates are written for version 5


def set_up(project: Path) -> Path:
    """Write a page template with Vega inside and name it in DVC's local configuration.

    A template that the user has configured is left alone.

    Args:
        project: holds `.dvc`.

    Returns:
        The template in use.

    Raises:
        InputError: this is no DVC project, or the extra `report` is not installed.
    """
    dvc = project / ".dvc"
    if not dvc.is_dir():
        raise InputError(f"{project}: no DVC project; run this in the project's root")
    config = ConfigParser()
    config.read([dvc / "config", dvc / "config.local"])
    configured = config.get("plots", "html_template", fallback=None)
    if configured is not None and configured != str(_TEMPLATE):
        return dvc / configured
    if not (dvc / _TEMPLATE).is_file():
        with needs("'hast[report]'"):
            import vl_convert
        vega: str = vl_convert.javascript_bundle(vl_version=_VEGA_LITE)  # type: ignore[call-arg]
        inside = vega.replace("</script", "<\\/script")  # which would end the script
        page = (Path(templates.__file__).parent / "plots.html").read_text()
        (dvc / _TEMPLATE).parent.mkdir(exist_ok=True)
        (dvc / _TEMPLATE).write_text(page.replace("VEGA", inside))
    if configured is None:
        _configure(dvc / "config.local")
    return dvc / _TEMPLATE


def _configure(path: Path) -> None:
    config = ConfigParser()
    config.read_dict({"plots": {}})
    config.read(path)
    config["plots"]["html_template"] = str(_TEMPLATE)
    with path.open("w") as file:
        config.write(file)
