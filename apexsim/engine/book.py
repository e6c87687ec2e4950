"""How a kernel gets at a pool: by the address of a row of machine words.

A state is dozens of arrays. As arguments they would be hundreds of words at every call between two kernels, and most of
the time to compile them. A *book* has a row a pool: addresses, shapes and strides of its arrays, and its numbers.
``pool_at`` gives three pointers into it, which have the fields of ``State``, ``StepTables`` and ``Limits``; a field is
loaded where it is used. Whoever makes a book keeps its pools alive, and arrays are not reference counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_type_hints

import numba
import numpy as np
from numba.core import cgutils, types
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import intrinsic, lower_getattr_generic, models, register_model
from numba.np.arrayobj import populate_array

from apexsim.cost.tables import StepTables
from apexsim.engine.adapters_asked import new_adapters
from apexsim.engine.law import exact_tables
from apexsim.engine.state import CLIENT, DRAFT, PLACE, PREFIX, UNIT, Cache, Limits, Order, State, new_state, rows
from apexsim.engine.tier_state import new_tiers
from apexsim.engine.visuals import new_visuals

Book = Any
"""[pools, words] int64; the pools themselves where kernels are not compiled."""

Pool = tuple[State, StepTables, Limits]

WORD = cgutils.intp_t


def book_of(pools: Sequence[Pool]) -> Book:
    """The book of these pools, as kernels read it.

    Raises:
        TypeError: an array is of another type, or not contiguous: kernels would read something else.
    """
    return written(pools, KIND)


def written(values: Sequence[tuple[Any, ...]], kind: Any) -> Book:
    """A book of tuples of namedtuples, a row each, of the types in ``kind``.

    Raises:
        TypeError: one is of other types.
    """
    if numba.config.DISABLE_JIT:
        return list(values)
    return np.array([_row(value, kind) for value in values], np.int64)


def _row(value: tuple[Any, ...], kind: Any) -> list[int]:
    """The words of a value of the types that kernels read; Numba is asked for them once for each make of value."""
    words: list[int] = []
    make: list[object] = []
    _read(value, words, make)
    if tuple(make) not in _RIGHT:
        if (found := numba.typeof(value)) != kind:
            raise TypeError(f"a row of {found}, where kernels are compiled for {kind}")
        _RIGHT.add(tuple(make))
    return words


_RIGHT: set[tuple[object, ...]] = set()
"""Makes of values that are of the right types. Asking Numba takes as long as a replay of 1,000 requests."""


def _read(value: Any, words: list[int], make: list[object]) -> None:
    """Append the words of a value, and what ``numba.typeof`` looks at: classes, and of arrays type and layout."""
    make.append(type(value))
    if isinstance(value, np.ndarray):
        array = np.asarray(value)  # attributes of record arrays take their time
        words += (array.ctypes.data, *array.shape, *array.strides)
        make += (array.dtype, array.ndim, array.flags.num)
    elif isinstance(value, tuple):
        for item in value:
            _read(item, words, make)
    elif isinstance(value, float):
        words.append(int(np.float64(value).view(np.int64)))
    else:
        words.append(int(value))


class Row(types.Type):
    """The words of a namedtuple of the type ``kind``."""

    def __init__(self, kind: types.NamedTuple) -> None:
        self.kind = kind
        super().__init__(name=f"Row({kind.instance_class.__name__}, {kind})")

    def place(self, field: str) -> tuple[int, Any]:
        """(words before it, type) of a field."""
        at = self.kind.fields.index(field)
        return sum(_width(kind) for kind in self.kind.types[:at]), _seen(self.kind.types[at])


def _width(kind: Any) -> int:
    """Words of a value."""
    if isinstance(kind, types.Array):
        return 1 + 2 * int(kind.ndim)
    return sum(_width(item) for item in kind.types) if isinstance(kind, types.BaseTuple) else 1


def _seen(kind: Any) -> Any:
    """What a kernel sees of a field."""
    return Row(kind) if isinstance(kind, types.BaseNamedTuple) else kind


@register_model(Row)
class _RowModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Row) -> None:
        super().__init__(manager, kind, WORD.as_pointer())


@infer_getattr
class _RowFields(AttributeTemplate):
    key = Row

    def generic_resolve(self, row: Row, field: str) -> Any:
        return row.place(field)[1] if field in row.kind.fields else None


@lower_getattr_generic(Row)
def _load_field(context: Any, builder: Any, row: Row, first: Any, field: str) -> Any:
    before, kind = row.place(field)
    at = builder.gep(first, [WORD(before)])
    if isinstance(kind, Row):
        return at
    if isinstance(kind, types.Array):
        return _array(context, builder, kind, at)
    machine, word = context.get_value_type(kind), _word(builder, at, 0)
    if isinstance(kind, types.Float):
        return builder.bitcast(word, machine)
    return word if machine == word.type else builder.trunc(word, machine)


def _word(builder: Any, first: Any, k: int) -> Any:
    """Word k; no kernel changes a book, so it need not be loaded again after a store."""
    word = builder.load(builder.gep(first, [WORD(k)]))
    word.set_metadata("invariant.load", builder.module.add_metadata([]))
    return word


def _array(context: Any, builder: Any, kind: types.Array, first: Any) -> Any:
    item = context.get_data_type(kind.dtype)
    view = context.make_array(kind)(context, builder)
    populate_array(
        view, data=builder.inttoptr(_word(builder, first, 0), item.as_pointer()),
        shape=[_word(builder, first, 1 + k) for k in range(kind.ndim)],
        strides=[_word(builder, first, 1 + kind.ndim + k) for k in range(kind.ndim)],
        itemsize=context.get_constant(types.intp, context.get_abi_sizeof(item)), meminfo=None,
    )  # fmt: skip
    return view._getvalue()


def _smallest() -> Pool:
    """A pool for its types: of nothing at all."""
    limits = Limits(**{name: kind(1) for name, kind in get_type_hints(Limits).items()})
    nothing, none = np.zeros(1, np.int64), np.zeros(0, np.int32)
    cache = Cache(rows(PREFIX, 0), rows(UNIT, 1, 0), none, none, np.zeros(0, np.uint8))
    state = new_state(
        np.zeros(1), nothing, nothing, limits, replicas=1, stages=1, timeline=False, cache=cache, drafts=rows(DRAFT, 0),
        tiers=new_tiers((), 1, 0, np.zeros(0)), order=Order(rows(PLACE, 0), rows(CLIENT, 1, 0)),
        adapters=new_adapters(None, nothing, 1), visuals=new_visuals(None, None, None, None, 1),
    )  # fmt: skip
    flat, square = np.zeros(1), np.zeros((1, 1))
    tables = StepTables(
        1, 1, square, square, flat, np.zeros((1, 1, 1, 1)), square[None], square[None], flat, flat, flat, square, 0
    )
    return state, exact_tables(tables), limits


KIND: Any = numba.typeof(_smallest())
"""The one type of pools that kernels are compiled for."""


def reader_of(whole_kind: Any) -> Any:
    """``at(book, p)``, inside a kernel: row p of a book of such tuples, a pointer to each of its namedtuples."""
    if numba.config.DISABLE_JIT:
        return lambda book, p: book[p]
    parts = [Row(part) for part in whole_kind.types]
    widths = [_width(part.kind) for part in parts]

    def row_at(typingctx: Any, book: Any, p: Any) -> Any:
        kind = types.Tuple(parts)

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            whole = context.make_array(signature.args[0])(context, builder, arguments[0])
            first = builder.gep(whole.data, [builder.mul(arguments[1], WORD(sum(widths)))])
            pointers = [builder.gep(first, [WORD(sum(widths[:k]))]) for k in range(len(parts))]
            return context.make_tuple(builder, kind, pointers)

        return kind(book, types.int64), codegen

    return intrinsic(row_at)


pool_at: Any = reader_of(KIND)
"""``pool_at(book, p)``: (state, tables, limits) of pool p, inside a kernel."""
