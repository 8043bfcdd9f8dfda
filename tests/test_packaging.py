"""The built wheel: whole, without the top-level links, and usable outside the checkout."""

import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

import probcomp

ROOT = Path(__file__).resolve().parents[1]
LINKS = ("priors", "inference", "decoding", "kernels")
HEAVY = ("jax", "transformers", "triton", "matplotlib", "arviz", "pyro", "numpyro")
OTHER_FILES = {".html", ".typed", ".cpp", ".h", ".json", ".safetensors"}
"""Suffixes of files in the package that are not Python and must be in the wheel."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    pytest.importorskip("hatchling")
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("needs the source checkout")
    out = tmp_path_factory.mktemp("dist")
    code = "from hatchling.build import build_wheel; import sys; print(build_wheel(sys.argv[1]))"
    built = subprocess.run(
        [sys.executable, "-c", code, str(out)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    return out / built.stdout.split()[-1]


@pytest.fixture(scope="module")
def names(wheel) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The wheel alone in a directory; its dependencies come from the running environment."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    ran = subprocess.run(
        [*command, "--target", str(target), str(wheel)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return target


def python(arguments: list[str], path: Path, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd, capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": str(path)},
    )  # fmt: skip


def package_files() -> set[str]:
    """Every source and data file that git knows or would know."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "probcomp"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode or not listed.stdout:
        pytest.skip("needs git to list the sources")
    return {name for name in listed.stdout.split() if (ROOT / name).is_file()}


def test_wheel_holds_every_file_of_the_package(names) -> None:
    missing = package_files() - names
    # A file written while the wheel was built is not in it; it must be older to count.
    newest = time.time() - 60
    missing = {name for name in missing if (ROOT / name).stat().st_mtime < newest}
    assert missing == set()
    assert "probcomp/report/template.html" in names
    assert "probcomp/py.typed" in names


def test_wheel_holds_nothing_else(names) -> None:
    tops = {name.split("/")[0] for name in names}
    assert tops == {"probcomp", f"probcomp-{probcomp.__version__}.dist-info"}
    strange = {
        name
        for name in names
        if name.startswith("probcomp/") and Path(name).suffix not in {".py", *OTHER_FILES}
    }
    assert strange == set()


@pytest.mark.parametrize("link", LINKS)
def test_top_level_links_lead_into_the_package_and_stay_out_of_the_wheel(names, link) -> None:
    path = ROOT / link
    assert path.is_symlink()
    assert os.readlink(path) == f"probcomp/{link}"
    assert not any(name == link or name.startswith(f"{link}/") for name in names)
    assert f"probcomp/{link}/__init__.py" in names


def test_installed_wheel_runs_outside_the_checkout(installed, tmp_path) -> None:
    code = "import probcomp; print(probcomp.__file__)"
    ran = python(["-c", code], installed, tmp_path)
    assert Path(ran.stdout.strip()).parent == installed / "probcomp", ran.stderr
    script = installed / "bin" / "probcomp"
    ran = python([str(script), "--help"], installed, tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "compress" in ran.stdout


def test_installed_page_template_is_found(installed, tmp_path) -> None:
    code = (
        "from probcomp.report import Report, render_page\n"
        "from probcomp.evaluation import Size\n"
        "one = Size(4, 4, 16)\n"
        "print(render_page(Report(model='m', method='x', seed=0, dense=one, compressed=one)))"
    )
    ran = python(["-c", code], installed, tmp_path)
    assert "<!doctype html>" in ran.stdout, ran.stderr


def test_bench_says_that_it_needs_a_checkout(installed, tmp_path) -> None:
    ran = python([str(installed / "bin" / "probcomp"), "bench", "structure"], installed, tmp_path)
    assert ran.returncode == 2
    assert "source checkout" in ran.stderr


def test_import_is_lazy() -> None:
    code = (
        "import sys, probcomp\n"
        f"print([m for m in {(*HEAVY, 'torch')!r} if m in sys.modules])\n"
        "from probcomp import Budget, compress, trace\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    ran = python(["-c", code], ROOT, ROOT)
    assert ran.stdout.splitlines() == ["[]", "[]"], ran.stderr


def test_public_names_exist() -> None:
    for name in probcomp.__all__:
        assert getattr(probcomp, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = probcomp.absent
    assert set(dir(probcomp)) == set(probcomp.__all__)
