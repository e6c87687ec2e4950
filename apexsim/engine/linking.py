"""How the parts of a kernel reach machine code: once, with the kernel that Python calls.

Numba optimises every compiled function together with all that it calls, and emits its machine code, also where only
another kernel will ever call it. A chain of a hundred parts pays that a hundred times over. Here a part's code is only
kept; whoever is called from Python links all parts, of any depth, and is optimised and emitted as one module. The
machine code is the same.

The seams of Numba that this uses are a pipeline of a function's own (documented) and the class of its code library.
"""

from __future__ import annotations

from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import LoweringPass, register_pass
from numba.core.typed_passes import NativeLowering


class _NoEnvironment:
    """A code generator for which a part's own environment does not exist: nobody calls it from Python."""

    def __init__(self, codegen: Any) -> None:
        self._codegen = codegen

    def set_env(self, name: str, env: object) -> None:
        """Nothing to set: the part is not loaded."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codegen, name)


class _Part(JITCodeLibrary):
    """Code that waits to be linked."""

    @property
    def codegen(self) -> Any:
        return _NoEnvironment(self._codegen)

    def finalize(self) -> None:
        self._raise_if_finalized()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        return 0


class _Whole(JITCodeLibrary):
    """Code that links its parts, their parts, and so on."""

    def finalize(self) -> None:
        found: dict[Any, None] = {}
        waiting = list(self._linking_libraries)
        while waiting:
            library = waiting.pop()
            if library not in found:
                found[library] = None
                waiting += library._linking_libraries if isinstance(library, _Part) else []
        self._linking_libraries = list(found)
        super().finalize()


def _begin(state: Any, kind: type[JITCodeLibrary]) -> None:
    state.library = kind(state.targetctx.codegen(), state.func_id.func_qualname)
    state.library.enable_object_caching()


@register_pass(mutates_CFG=False, analysis_only=True)
class _BeginPart(LoweringPass):
    _name = "begin_part"

    def __init__(self) -> None:
        LoweringPass.__init__(self)

    def run_pass(self, state: Any) -> bool:
        _begin(state, _Part)
        return False


@register_pass(mutates_CFG=False, analysis_only=True)
class _BeginWhole(LoweringPass):
    _name = "begin_whole"

    def __init__(self) -> None:
        LoweringPass.__init__(self)

    def run_pass(self, state: Any) -> bool:
        _begin(state, _Whole)
        return False


def _pipeline(state: Any, begin: type[LoweringPass]) -> list[Any]:
    passes = DefaultPassBuilder.define_nopython_pipeline(state)
    names = [each[0] if isinstance(each[0], type) else type(each[0]) for each in passes.passes]
    passes.passes.insert(names.index(NativeLowering), (begin, "begin a code library"))
    passes.finalize()
    return [passes]


class PartCompiler(CompilerBase):
    """The pipeline of a kernel's part."""

    def define_pipelines(self) -> list[Any]:
        return _pipeline(self.state, _BeginPart)


class WholeCompiler(CompilerBase):
    """The pipeline of a kernel that Python calls."""

    def define_pipelines(self) -> list[Any]:
        return _pipeline(self.state, _BeginWhole)
