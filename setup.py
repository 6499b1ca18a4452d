"""Build the OpenSSL provider and the relay as plain shared objects; everything else is in setup.cfg.

They are no Python extensions: OpenSSL loads the one and ctypes the other, so they have no PyInit function and no
ABI tag in their names, and a wheel that contains them is good for every Python 3 of the platform.
"""

import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # setuptools before 70.1
    try:
        from wheel.bdist_wheel import bdist_wheel
    except ImportError:  # a bare virtual environment of Debian 12: it installs the tree, and makes no wheels
        bdist_wheel = None

NATIVE = "tlspool_worker/native"
OBJECTS = {  # name -> sources, headers
    "tlspool_provider": (
        ("decoder", "key", "params", "provider", "reference", "signature", "signer"),
        ("provider", "reference", "signer"),
    ),
    "tlspool_relay": (("relay", "relay_thread"), ("relay", "relay_session")),
}
COMPILE = [
    "-std=c11",
    "-O2",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-pthread",
    "-fvisibility=hidden",
    "-fstack-protector-strong",
    "-U_FORTIFY_SOURCE",  # some compilers predefine it, and a second definition is a warning
    "-D_FORTIFY_SOURCE=2",
]
LINK = [
    "-pthread",
    "-Wl,-z,relro,-z,now,-z,noexecstack",
    "-Wl,-z,defs",
]  # defs: a symbol that libc does not have fails here
NO_HEADERS = """
The OpenSSL provider cannot be built: the C compiler does not find <openssl/core.h>, a header of OpenSSL 3.

    Debian, Ubuntu:  apt install gcc libssl-dev
    Fedora:          dnf install gcc openssl-devel
"""


class BuildSharedObject(build_ext):
    """Name the file without an ABI tag, and say what is missing when it cannot be built."""

    def get_ext_filename(self, ext_name):
        """Return ``pkg/name.so``."""
        return str(Path(*ext_name.split("."))) + ".so"

    def get_export_symbols(self, ext):
        """Export no PyInit function."""
        return ext.export_symbols

    def build_extension(self, ext):
        """Compile, or name the packages to install."""
        with tempfile.TemporaryDirectory() as directory:
            probe = Path(directory, "probe.c")
            probe.write_text("#include <openssl/core.h>\n")
            try:
                self.compiler.compile([str(probe)], output_dir=directory, include_dirs=ext.include_dirs)
            except CompileError:
                raise SystemExit(NO_HEADERS) from None
        super().build_extension(ext)


commands = {"build_ext": BuildSharedObject}

if bdist_wheel is not None:

    class AnyPythonWheel(bdist_wheel):
        """Tag the wheel for any Python 3 of this platform."""

        def get_tag(self):
            """Return py3-none-PLATFORM."""
            *_, platform = super().get_tag()
            return "py3", "none", platform

    commands["bdist_wheel"] = AnyPythonWheel

setup(
    ext_modules=[
        Extension(
            f"tlspool_worker.native.{name}",
            sources=[f"{NATIVE}/{source}.c" for source in sources],
            depends=[f"{NATIVE}/{header}.h" for header in headers],
            extra_compile_args=COMPILE,
            extra_link_args=LINK,
        )
        for name, (sources, headers) in OBJECTS.items()
    ],
    cmdclass=commands,
)
