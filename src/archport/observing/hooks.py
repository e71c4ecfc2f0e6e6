"""The one place that hangs hooks on modules, and stands in for their methods: for a while, and never for longer."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from .site import Site

Visit = Callable[[Tensor], Tensor]


def is_observed(model: nn.Module) -> bool:
    """Whether something hangs on a model right now, by `observe` or by `hooked`."""
    return any(
        isinstance(value, _Hung)
        for module in model.modules()
        for held in (vars(module), module._forward_hooks, module._forward_pre_hooks)
        for value in held.values()
    )


@contextmanager
def hooked(
    modules: Mapping[str, nn.Module],
    *,
    before: Callable[[str, nn.Module, tuple[Any, ...], dict[str, Any]], Any] | None = None,
    after: Callable[[str, nn.Module, tuple[Any, ...], dict[str, Any], Any], Any] | None = None,
    first: bool = False,
) -> Iterator[None]:
    """Call `before` and `after` around the forward pass of any modules, with the name each has here.

    What they return, if anything, replaces the arguments, as (args, kwargs), or the result. They come after hooks that
    hang there already, unless `first`.
    """
    with ExitStack() as stack:
        for name, module in modules.items():
            if before is not None:
                hook: Any = _Hung(partial(before, name))
                stack.callback(module.register_forward_pre_hook(hook, prepend=first, with_kwargs=True).remove)
            if after is not None:
                hook = _Hung(partial(after, name))
                stack.callback(module.register_forward_hook(hook, prepend=first, with_kwargs=True).remove)
        yield


class _Hung:
    """What hangs on a module for a while, and must not go into a copy of it: that would call the original's."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> Any:  # by which copy and pickle go
        raise TypeError("a model that is observed cannot be copied or saved: leave the `with` block first")


class _Step(_Hung):
    """A method of one module, in its place while it is visited or replaced."""

    def __init__(self, method: Callable[..., Any], own: Any) -> None:
        super().__init__(method)
        self.own = own  # what the module itself had under this name, not its class
        self.visits: list[Callable[[Any], Any]] = []
        self.replacements: list[Callable[..., Any]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        method = self.replacements[-1] if self.replacements else self.function
        result = method(*args, **kwargs)
        for visit in self.visits:
            result = visit(result)
        return result


@contextmanager
def visited(model: nn.Module, site: Site, visit: Visit, *, first: bool) -> Iterator[None]:
    """Put what `visit` makes of a site's value in its place, in every pass, before other visits or after."""
    module = model.get_submodule(site.part)
    with ExitStack() as stack:
        if site.instead is not None:
            method, other = site.instead
            replaced = stack.enter_context(_step(module, method)).replacements
            stack.enter_context(_inserted(getattr(module, other), replaced, at=len(replaced)))
        if site.step == "forward":
            stack.enter_context(_hook(module, site, visit, first=first))
        else:
            visits = stack.enter_context(_step(module, site.step)).visits
            stack.enter_context(_inserted(partial(_put, site, visit), visits, at=0 if first else len(visits)))
        yield


@contextmanager
def _step(module: nn.Module, name: str) -> Iterator[_Step]:
    """A method that can be visited and replaced; it is the module's own again afterwards."""
    own = vars(module).get(name)
    step = own if isinstance(own, _Step) else _Step(getattr(module, name), own)
    setattr(module, name, step)
    try:
        yield step
    finally:
        if not step.visits and not step.replacements:
            delattr(module, name)
            if step.own is not None:
                setattr(module, name, step.own)


@contextmanager
def _inserted(item: Any, items: list[Any], *, at: int) -> Iterator[None]:
    """Put something into a list, for a while."""
    items.insert(at, item)
    try:
        yield
    finally:
        items.remove(item)


def _hook(module: nn.Module, site: Site, visit: Visit, *, first: bool) -> AbstractContextManager[None]:
    """Visit the result of a forward pass, or its first argument."""

    def before(_: str, __: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (_put(site, visit, args[0]), *args[1:]), kwargs
        name = next(iter(kwargs))
        return args, kwargs | {name: _put(site, visit, kwargs[name])}

    def after(_: str, __: nn.Module, ___: Any, ____: Any, result: Any) -> Any:
        return _put(site, visit, result)

    modules = {site.part: module}
    return hooked(modules, before=before, first=first) if site.before else hooked(modules, after=after, first=first)


def _put(site: Site, visit: Visit, result: Any) -> Any:
    """Put what `visit` makes of a site's value in its place in the result of a step."""
    value = result if site.index is None else result[site.index]
    if not isinstance(value, Tensor):
        raise ValueError(f"{site.name}: found a {type(value).__name__}, expected a tensor: this cannot be observed")
    value = visit(value.transpose(1, 2)).transpose(1, 2) if site.by_head else visit(value)
    return value if site.index is None else (*result[: site.index], value, *result[site.index + 1 :])
