"""A stack of recurrent layers with its parameters, gradients and workspaces: torch.nn.RNN for NumPy."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import numpy as np

from pyrnn import _checks, _noise, _steps
from pyrnn.cell import NEGATIVE_SLOPE, Cell
from pyrnn.layers import files, parameters, stack
from pyrnn.layers.constraints import Constraint
from pyrnn.layers.parameters import StateDict
from pyrnn.layers.summary import summary
from pyrnn.losses import LOSSES, QUIET, check_loss, of_classes
from pyrnn.network import Network

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import ArrayLike, DTypeLike

    from pyrnn._types import Form, Loss, MaybeArray, Nonlinearity, Path, Seed, Shape

    _Inputs: TypeAlias = tuple[dict[str, Any], tuple[np.ndarray | None, ...]]  # as given, and as arrays


ALPHA_BOUNDS = (0.0, 1.0)


class RNNGradients(NamedTuple):
    """What `RNN.backward` returns beside the gradients of the parameters: those of x, of h0, and of alpha or None.

    With noise, that of alpha is for the drive that the noise was, whose size depends on alpha too; with ``train_alpha``
    that dependence is in it.
    """

    x: MaybeArray
    h0: np.ndarray
    alpha: np.ndarray | np.floating | None


class RNN:
    """Layers of recurrent units with PyTorch's parameters and results, and exact gradients without a framework.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    num_layers : int
        How many layers are stacked, L: each reads what the one below sends up.
    nonlinearity : {"tanh", "relu", "identity", "softplus", "sigmoid", "retanh", "leaky_relu"}
        The function phi of each unit, as in `pyrnn.Cell`.
    bias : bool
        Whether there are biases: two in each layer and direction, as in PyTorch, that are added up, and the output
        layer's.
    batch_first : bool
        Whether x, outputs, targets and weights are (B, T, ...) instead of (T, B, ...). Never h0 and h_n.
    bidirectional : bool
        Whether each layer has two directions, D = 2, whose states lie beside each other.
    dropout : float, 0 to 1
        In training, the probability with which each number that goes from a layer to the next one is set to 0; the
        others are divided by 1 - dropout.
    recurrent_dropout : float, 0 to 1
        In training, the probability with which the recurrent weights do not see a unit: one choice for each sequence,
        layer and direction, the same at all of its steps [2]_. The leak is not touched.
    alpha : float or array_like, shape (H,)
        The leak of all layers, a step of time over the unit's time constant; 1 for none.
    form : {"rate", "current"}
        What leaks, as in `pyrnn.forward`. In the ``current`` form the states, h0, h_n and `layer_states`, are currents,
        and the rates phi(h) are what goes to the next layer, to the output layer, and out.
    output_size : int, optional
        O, of a linear layer on what the top layer sends up; None for none.
    dtype : {float32, float64}
        Of parameters, states and results. Inputs of any other real dtype, and lists, are cast to it.
    negative_slope : float
        Of ``leaky_relu``, as in `pyrnn.Cell`.
    noise : float or array_like, shape (H,)
        In training, σ of the state noise √(2 alpha) σ ξ of each layer and direction, as in `pyrnn.simulate`; 0 for
        none.
    constraints : mapping of str to pyrnn.training.Constraint, optional
        What weight matrices may be, by their names, ``weight_ih_l0``, ``weight_hh_l0``, ..., ``weight_out``. The
        parameter of that name holds the *raw* weights, and so do `gradients` its gradient; calls use
        ``constraint.apply(raw)``, which `effective_weights` and `network` return.
    train_h0 : bool
        Whether there is a parameter ``h0``, (L D, H), zeros at first: the states before the first step, of all
        sequences, in calls without an h0.
    train_alpha : bool
        Whether the leak is trained, by a parameter ``raw_alpha``, (1,) or (H,), from which
            `alpha` is computed.
    alpha_bounds : (float, float)
        Between which a trained alpha stays, and strictly between which it starts.
    output_units : array_like of integers, shape (k,), or of booleans, shape (H,), optional
        Which units of the top layer the output layer reads, in an RNN of one direction; None for all.
    rng : int, numpy.random.Generator or None
        Draws the first parameters, the dropout and the seeds of noise, as in `numpy.random.default_rng`.

    Attributes
    ----------
    parameters, gradients : ndarray, shape (number of parameters,)
        All parameters, and what `backward` computed for them. Assigning copies the values in.
    weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0, weight_ih_l0_reverse, ..., weight_out, bias_out : ndarray
        Views into `parameters`: (H, I), or (H, D H) above the first layer, (H, H), (H,), (H,), (O, D H), or (O, k) with
        `output_units`, (O,). Assigning copies the values in.
    h0, raw_alpha : ndarray
        More such views, with `train_h0` and `train_alpha`.
    layer_states, layer_rates : tuple of ndarray
        Of the last call.
    training : bool
        Whether dropout and noise act: set by `train` and `eval`, True at first.
    rng : numpy.random.Generator
        Assign a number to see the same dropout and noise again.
    alpha : float or ndarray, shape (H,)
        As given, or what ``raw_alpha`` makes of it with `train_alpha`. Read-only.
    input_size, hidden_size, num_layers, nonlinearity, bias, batch_first, bidirectional, form, output_size
        As given, and fixed, as are ``dtype``, ``negative_slope``, ``constraints``, ``train_h0``, ``train_alpha``,
        ``alpha_bounds`` and ``output_units`` (integers); ``dropout``, ``recurrent_dropout`` and ``noise`` may be
        changed.

    Raises
    ------
    ValueError, TypeError
        If an argument has no such value.

    See Also
    --------
    forward, backward : one layer, without an object.
    pyrnn.training.Constraint : what `constraints` takes.

    Notes
    -----
    Each layer and direction computes h_t = tanh(weight_ih x_t + bias_ih + weight_hh h_{t-1} + bias_hh), equations 10.8
    and 10.9 of [1]_, by `pyrnn.forward`, and its gradients by `pyrnn.backward`: docs/rnn.md has the details and a table
    of what the arguments are called elsewhere. Parameters start as in PyTorch, uniform within 1/sqrt(H), the output
    layer's within 1/sqrt(D H), or 1/sqrt(k). Raw weights start as such numbers made allowed: their magnitudes in
    columns with a sign, so that no connection starts at 0; 0 where masked; the frozen value where frozen, its magnitude
    in a column with a sign; as they were drawn elsewhere. Masked and frozen entries are never read, and have no
    gradient.

    A trained leak is alpha = low + (high - low) / (1 + exp(-raw_alpha)). Its gradient is exact in training with noise
    too: √(2 alpha) σ ξ is a function of alpha, with ξ fixed.

    Recurrent dropout scales the columns of weight_hh, which is exact, by other factors for each sequence; so sequences
    run one after the other, without what a batch saves.

    What a call needs in between is kept for the next one, of which `backward` reads some: so one object serves one
    thread at a time. ``copy.copy`` makes another one on the same parameters, with gradients and memory of its own.
    ``x`` and ``h0`` are kept too, not copied: leave them, and the parameters, as they are until `backward`.

    References
    ----------
    .. [1] I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", MIT Press, 2016, section 10.2.
    .. [2] Y. Gal, Z. Ghahramani, "A theoretically grounded application of dropout in recurrent neural networks", NIPS
       2016.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> rnn = pyrnn.RNN(3, 5, num_layers=2, rng=0)
    >>> rnn
    RNN(3, 5, num_layers=2)
    >>> x = np.ones((7, 4, 3), np.float32)
    >>> out, h_n = rnn(x)
    >>> out.shape, h_n.shape
    ((7, 4, 5), (2, 4, 5))
    >>> rnn.backward(np.ones_like(out)).x.shape  # of the sum of all outputs
    (7, 4, 3)
    >>> rnn.parameters -= 0.01 * rnn.gradients

    Three excitatory units and one inhibitory one, without self-connections:

    >>> signs, others = [1, 1, 1, -1], ~np.eye(4, dtype=bool)
    >>> constraints = {"weight_hh_l0": pyrnn.training.Constraint(mask=others, signs=signs)}
    >>> rnn = pyrnn.RNN(3, 4, nonlinearity="relu", alpha=0.2, constraints=constraints, rng=0)
    >>> bool((rnn.weight_hh_l0 >= 0).all()), bool((rnn.network().W * signs >= 0).all())
    (True, True)
    """

    training: bool
    input_size: Final[int]
    hidden_size: Final[int]
    num_layers: Final[int]
    nonlinearity: Final[Nonlinearity]
    bias: Final[bool]
    batch_first: Final[bool]
    bidirectional: Final[bool]
    form: Final[Form]
    output_size: Final[int | None]
    dtype: Final[np.dtype]
    negative_slope: Final[float]
    train_h0: Final[bool]
    train_alpha: Final[bool]
    alpha_bounds: Final[tuple[float, float]]
    output_units: Final[np.ndarray | None]
    _given_alpha: float | np.ndarray  # at the start
    _constraints: dict[str, Constraint]
    _constrained: dict[str, stack.Constrained]
    _V: np.ndarray  # what the output layer reads the top layer with
    _views: dict[str, np.ndarray]
    _gradient_views: dict[str, np.ndarray]
    _alpha: np.ndarray | None
    _drive_sigma: np.ndarray | None
    _cell: Cell
    _tape: stack.Tape | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        nonlinearity: Nonlinearity = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        bidirectional: bool = False,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        alpha: ArrayLike = 1.0,
        form: Form = "rate",
        output_size: int | None = None,
        dtype: DTypeLike = np.float32,
        negative_slope: float = NEGATIVE_SLOPE,
        noise: ArrayLike = 0.0,
        constraints: Mapping[str, Constraint] | None = None,
        train_h0: bool = False,
        train_alpha: bool = False,
        alpha_bounds: tuple[float, float] = ALPHA_BOUNDS,
        output_units: ArrayLike | None = None,
        rng: Seed = None,
    ) -> None:
        self.input_size = _checks.positive_integer("input_size", input_size)
        self.hidden_size = _checks.positive_integer("hidden_size", hidden_size)
        self.num_layers = _checks.positive_integer("num_layers", num_layers)
        cell = Cell(nonlinearity, 1.0, form, negative_slope)  # checks them
        self.nonlinearity, self.form, self.negative_slope = nonlinearity, form, cell.negative_slope
        self.bias = _boolean("bias", bias)
        self.batch_first = _boolean("batch_first", batch_first)
        self.bidirectional = _boolean("bidirectional", bidirectional)
        self.dropout, self.recurrent_dropout = dropout, recurrent_dropout
        self.output_size = None if output_size is None else _checks.positive_integer("output_size", output_size)
        if dtype is None or np.dtype(dtype) not in (np.float32, np.float64):
            raise TypeError(f"dtype must be float32 or float64, got {dtype if dtype is None else np.dtype(dtype)}")
        self.dtype = np.dtype(dtype)
        self._given_alpha = _leak(alpha, self.hidden_size)
        self.train_h0, self.train_alpha = _boolean("train_h0", train_h0), _boolean("train_alpha", train_alpha)
        self.alpha_bounds = _bounds(alpha_bounds, self.train_alpha, self._given_alpha)
        self.output_units = _units(output_units, self.hidden_size, self.output_size, self.bidirectional)
        self.rng = rng
        self.training = True
        if self.dropout > 0 and self.num_layers == 1:
            warnings.warn("dropout acts between layers: with num_layers=1 it does nothing", stacklevel=2)
        shapes = self._shapes()
        self._constraints = _checked_constraints(constraints, shapes)
        self._parameters = np.zeros(parameters.size(shapes), self.dtype)
        self._gradients = np.zeros_like(self._parameters)
        self._prepare()
        self._draw()
        self.noise = noise

    def _shapes(self) -> dict[str, Shape]:
        sizes = (self.input_size, self.hidden_size, self.num_layers, self.bidirectional, self.bias, self.output_size)
        read = None if self.output_units is None else len(self.output_units)
        return parameters.layout(*sizes, read, self.train_h0, self.train_alpha * np.size(self._given_alpha))

    def _draw(self) -> None:
        """Start all parameters."""
        parameters.draw(self._views, self.hidden_size, self.rng)
        for name, constraint in self._constraints.items():
            drawn = self._views[name]
            W = (
                drawn
                if constraint.signs is None
                else np.where(constraint.signs, constraint.signs * np.abs(drawn), drawn)
            )
            drawn[...] = constraint.raw(constraint.project(W))
        if self.train_alpha:
            low, high = self.alpha_bounds
            self._views["raw_alpha"][...] = np.log((self._given_alpha - low) / (high - self._given_alpha))

    def _prepare(self) -> None:
        """Make all that follows from the other attributes."""
        shapes = self._shapes()
        self._views = parameters.views(self._parameters, shapes)
        self._gradient_views = parameters.views(self._gradients, shapes)
        self._alpha = None
        if self.form == "current" or np.ndim(self._given_alpha) or self._given_alpha != 1 or self.train_alpha:
            self._alpha = np.full(self.hidden_size, self.alpha, self.dtype)
        # Its alpha is one of each unit.
        self._cell = Cell(self.nonlinearity, self._alpha, self.form, self.negative_slope)
        self._constrained = stack.constrained_of(self)
        if self.output_size is not None:
            self._V = self._views["weight_out"]
            if "weight_out" in self._constrained:
                self._V = self._constrained["weight_out"].W
            if self.output_units is not None:
                self._V = np.zeros((self.output_size, self.hidden_size), self.dtype)
        self._layers, self._sums = stack.networks_of(self)
        self._workspace = parameters.Workspace()
        self._drive_sigma = self._noise_of_drive() if "_noise" in self.__dict__ else None
        self._tape, self._batched, self._from_own_h0 = None, True, False
        self._changed = False  # parameters, since the tape was made

    # ---- Parameters -------------------------------------------------------------------------------------------------
    @property
    def parameters(self) -> np.ndarray:
        return self._parameters

    @parameters.setter
    def parameters(self, values: ArrayLike) -> None:
        self._assign("parameters", self._parameters, values)

    @property
    def gradients(self) -> np.ndarray:
        return self._gradients

    @gradients.setter
    def gradients(self, values: ArrayLike) -> None:
        self._assign("gradients", self._gradients, values)

    def named_parameters(self) -> Iterator[tuple[str, np.ndarray]]:
        """Names and views of all parameters, in the order of `parameters`.

        Returns
        -------
        iterator of (str, ndarray)
        """
        return iter(self._views.items())

    def named_gradients(self) -> Iterator[tuple[str, np.ndarray]]:
        """Names and views of the gradients of all parameters, in the order of `gradients`.

        Returns
        -------
        iterator of (str, ndarray)
        """
        return iter(self._gradient_views.items())

    def state_dict(self) -> StateDict:
        """Copies of all parameters by PyTorch's names.

        Returns
        -------
        pyrnn.layers.StateDict
            A dict of str to ndarray, whose attribute ``arguments`` has the constructor's: so an exporter sees a leak,
            and writes effective weights in place of raw ones. For others there are
            ``rnn.state_dict() | rnn.effective_weights()``.

        Examples
        --------
        >>> import pyrnn
        >>> {name: a.shape for name, a in pyrnn.RNN(3, 5).state_dict().items()}
        {'weight_ih_l0': (5, 3), 'weight_hh_l0': (5, 5), 'bias_ih_l0': (5,), 'bias_hh_l0': (5,)}
        """
        return StateDict({name: a.copy() for name, a in self._views.items()}, self._arguments())

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> None:
        """Copy parameters in, from `state_dict` or that of a torch.nn.RNN.

        Parameters
        ----------
        state_dict : mapping of str to array_like
            Arrays, or tensors of PyTorch on the CPU, of any real dtype.
        strict : bool
            Whether all names must be there, and no others; else those that are there are taken.

        Raises
        ------
        ValueError
            If names are missing or unexpected, or shapes do not fit: all of them are named, and nothing is changed. If
            they are of an RNN whose raw weights, or whose raw alpha, mean something else: other constraints or bounds.
        TypeError
            If `state_dict` is no mapping, or a value not real.
        """
        if not hasattr(state_dict, "items"):
            raise TypeError(f"state_dict must be a mapping of names to arrays, got {type(state_dict).__name__}")
        strict = _boolean("strict", strict)
        given = dict(state_dict.items())
        if isinstance(state_dict, StateDict) and state_dict.arguments:
            self._check_meaning(given, state_dict.arguments)
        arrays = {name: _parameter_values(name, given[name]) for name in self._views if name in given}
        expected = {name: view.shape for name, view in self._views.items() if strict or name in given}
        shapes = {name: arrays[name].shape if name in arrays else None for name in (given if strict else arrays)}
        if misfits := parameters.misfits(expected, shapes):
            raise ValueError(f"state_dict does not fit {self!r}: {misfits}")
        self._changed = True
        shared = {name: a.copy() for name, a in arrays.items() if np.may_share_memory(a, self._parameters)}
        for name, a in (arrays | shared).items():
            self._views[name][...] = a

    def _check_meaning(self, given: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
        """Raise unless raw numbers of an RNN with such arguments are raw numbers of this one."""
        theirs = arguments.get("constraints") or {}
        for name in self._views:
            if name in given and theirs.get(name) != self._constraints.get(name):
                raise ValueError(
                    f"state_dict must be of an RNN with the same constraints, got {theirs.get(name)} for {name}, not "
                    f"{self._constraints.get(name)}: set rnn.{name} = constraint.raw(W), of effective weights W"
                )
        bounds = arguments.get("alpha_bounds", ALPHA_BOUNDS)
        bounds = tuple(bounds) if isinstance(bounds, list) else bounds
        if self.train_alpha and "raw_alpha" in given and bounds != self.alpha_bounds:
            raise ValueError(f"state_dict must be of an RNN with alpha_bounds {self.alpha_bounds}, got {bounds!r:.80}")

    def _assign(self, name: str, array: np.ndarray, values: ArrayLike) -> None:
        """Copy values into a vector or a view of it; the array itself comes back from an operation in place."""
        if array is not self._gradients:
            self._changed = True
        if values is array:
            return
        values = _parameter_values(name, values)
        _checks.check_shape(name, values, array.shape)
        array[...] = values

    def __getattr__(self, name: str) -> np.ndarray:
        try:
            view: np.ndarray = self.__dict__["_views"][name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}") from None
        return view

    def __setattr__(self, name: str, value: Any) -> None:
        view = self.__dict__.get("_views", {}).get(name)
        if view is not None:
            self._assign(name, view, value)
        elif name in _FIXED and "_views" in self.__dict__:
            raise AttributeError(f"{name} cannot be changed after construction")
        else:
            object.__setattr__(self, name, value)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._views]

    # ---- Constraints and the leak -----------------------------------------------------------------------------------
    @property
    def constraints(self) -> dict[str, Constraint]:
        """The constraints by the names of the weights, a new dict."""
        return dict(self._constraints)

    def effective_weights(self) -> dict[str, np.ndarray]:
        """What calls use as weights: with a constraint, what that makes of the raw weights that are the parameters.

        Returns
        -------
        dict of str to ndarray
            Copies of all weight matrices, by the names of the parameters and of their shapes.

        See Also
        --------
        pyrnn.training.Constraint.raw : makes raw weights of effective ones.
        state_dict, named_parameters : the parameters.

        Examples
        --------
        >>> import pyrnn
        >>> constraint = pyrnn.training.Constraint(signs=[1, -1])
        >>> rnn = pyrnn.RNN(1, 2, constraints={"weight_hh_l0": constraint}, rng=0)
        >>> rnn.weight_hh_l0 = constraint.raw([[0.5, -0.25], [0.5, 0.0]])
        >>> rnn.weight_hh_l0
        array([[0.5 , 0.25],
               [0.5 , 0.  ]], dtype=float32)
        >>> rnn.effective_weights()["weight_hh_l0"]
        array([[ 0.5 , -0.25],
               [ 0.5 ,  0.  ]], dtype=float32)
        """
        return {name: self._effective(name).copy() for name in self._views if name.startswith("weight")}

    def _effective(self, name: str) -> np.ndarray:
        """A new array, or a view where there is no constraint. Buffers of a call are not touched."""
        raw = self._views[name]
        return self._constraints[name].apply(raw) if name in self._constraints else raw

    @property
    def alpha(self) -> float | np.ndarray:
        """The leak: a number, or an array of each unit that nobody writes to."""
        if not self.train_alpha:
            return self._given_alpha
        alpha, _ = self._trained_alpha()
        return alpha if np.ndim(self._given_alpha) else float(alpha[0])

    def _trained_alpha(self) -> tuple[np.ndarray, np.ndarray]:
        """Alpha and its derivative with respect to `raw_alpha`, in float64."""
        low, high = self.alpha_bounds
        raw = self._views["raw_alpha"].astype(np.float64)
        with np.errstate(over="ignore"):
            up, down = 1 / (1 + np.exp(-raw)), 1 / (1 + np.exp(raw))
        return _read_only(low + (high - low) * up), (high - low) * up * down

    def _update_alpha(self) -> None:
        """Make the cell of all layers once more if a trained alpha has changed."""
        if not self.train_alpha:
            return
        alpha, self._alpha_slope = self._trained_alpha()
        alpha = np.broadcast_to(alpha.astype(self.dtype), self.hidden_size)
        if not np.array_equal(alpha, self._cell.alpha):
            cell = self._cell = Cell(self.nonlinearity, alpha, self.form, self.negative_slope)
            self._layers = [[network._replace(cell=cell) for network in networks] for networks in self._layers]
            self._drive_sigma = self._noise_of_drive()

    def _noise_of_drive(self) -> np.ndarray | None:
        """The standard deviation of the drive that is the noise, of each unit; None without noise."""
        if not np.any(self._noise):
            return None
        return np.ascontiguousarray(np.broadcast_to(self.cell.drive_sigma(self._noise), self.hidden_size), self.dtype)

    # ---- Its networks -----------------------------------------------------------------------------------------------
    @property
    def cell(self) -> Cell:
        """The form of all cells, whose alpha is None where it is the number 1 in the ``rate`` form."""
        alpha = None if self._alpha is None else self.alpha
        return Cell(self.nonlinearity, alpha, self.form, self.negative_slope)

    def network(self, layer: int | None = None, direction: int | None = None) -> Network:
        """One layer and direction as a Network, for what analyses networks.

        Parameters
        ----------
        layer : int, optional
            From 0, or from the end by negative numbers; None of an RNN that has one layer.
        direction : {0, 1}, optional
            1 for the one backwards; None of an RNN that has one direction.

        Returns
        -------
        Network
            U and W are views of `parameters`, or with a constraint new arrays of effective weights; b is the sum of
            both biases. The top layer's network has the output layer, unless that reads two directions; V is a new
            array with a constraint and with `output_units`, of zeros in the columns of other units. Alpha is that of
            now. A network does not hold the parameter ``h0``: give that to what analyses it.

        Raises
        ------
        ValueError
            If there is no such layer or direction, or it is not said which of several.
        TypeError
            If it is no integer.

        Examples
        --------
        >>> import pyrnn
        >>> rnn = pyrnn.RNN(3, 5, num_layers=2, output_size=1, rng=0)
        >>> rnn.network(0).V is None, rnn.network(1).V.shape
        (True, (1, 5))
        """
        if layer is None:
            if self.num_layers > 1:
                raise ValueError(f"layer must be given for an RNN of {self.num_layers} layers: rnn.network(layer)")
            layer = 0
        if direction is None:
            if self.bidirectional:
                raise ValueError("direction must be given for a bidirectional RNN: rnn.network(layer, direction)")
            direction = 0
        layer = _checks.integer_within("layer", layer, -self.num_layers, self.num_layers - 1) % self.num_layers
        direction = _checks.integer_within("direction", direction, 0, int(self.bidirectional))
        end = f"_l{layer}" + ("_reverse" if direction else "")
        arrays = self._views
        U, W = (self._effective(name + end) for name in ("weight_ih", "weight_hh"))
        b = arrays["bias_ih" + end] + arrays["bias_hh" + end] if self.bias else None
        top = layer == self.num_layers - 1 and self.output_size is not None and not self.bidirectional
        V, c = (self._output_matrix(), arrays.get("bias_out")) if top else (None, None)
        return Network(U, W, b, V, c, None, self.cell)

    def _output_matrix(self) -> np.ndarray:
        """V, (O, D H)."""
        V = self._effective("weight_out")
        if self.output_units is None:
            return V
        whole = np.zeros((len(V), self.hidden_size), self.dtype)
        whole[:, self.output_units] = V
        return whole

    # ---- Dropout and noise -------------------------------------------------------------------------------------------
    @property
    def dropout(self) -> float:
        return self._dropout

    @dropout.setter
    def dropout(self, p: float) -> None:
        self._dropout = _probability("dropout", p)

    @property
    def recurrent_dropout(self) -> float:
        return self._recurrent_dropout

    @recurrent_dropout.setter
    def recurrent_dropout(self, p: float) -> None:
        self._recurrent_dropout = _probability("recurrent_dropout", p)

    @property
    def noise(self) -> float | np.ndarray:
        return self._noise

    @noise.setter
    def noise(self, sigma: ArrayLike) -> None:
        given = _noise.check_sigma("noise", sigma, self.hidden_size)
        if given.any():
            self.cell.drive_sigma(given)  # checks alpha
        self._noise = float(given) if given.ndim == 0 else _fixed(given)
        self._drive_sigma = self._noise_of_drive()

    @property
    def rng(self) -> np.random.Generator:
        return self._rng

    @rng.setter
    def rng(self, rng: Seed) -> None:
        self._rng = np.random.default_rng(rng)

    def train(self, mode: bool = True) -> Self:
        """Switch dropout and noise on, or off with False; returns the RNN itself."""
        self.training = _boolean("mode", mode)
        return self

    def eval(self) -> Self:
        """Switch dropout and noise off; returns the RNN itself."""
        return self.train(False)

    # ---- Forward ----------------------------------------------------------------------------------------------------
    def __call__(
        self,
        x: ArrayLike,
        h0: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        *,
        out: tuple[np.ndarray | None, np.ndarray | None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Outputs and last states, as of torch.nn.RNN.

        Parameters
        ----------
        x : array_like, shape (T, B, I), (B, T, I) with batch_first, or (T, I)
        h0 : array_like, shape (L D, B, H) or (L D, H), optional
            The states before the first step, layer by layer and in each the direction forwards first; None for zeros,
            or for the parameter ``h0`` with ``train_h0``.
        lengths : array_like of integers, shape (B,), or an integer without a batch axis, optional
            How many steps each sequence has, 0 to T, in any order: as if packed. What lies behind is not read.
        out : tuple of two ndarray or None, optional
            Where to write the two results, of their shape and dtype.

        Returns
        -------
        out : ndarray, shape (T, B, D H), (B, T, D H) or (T, D H), with O for D H if there is an output layer
            Zeros behind the ends of sequences. A new array, unless `out` says where.
        h_n : ndarray, shape of h0
            The state of each sequence after its last step: backwards, that is its first one.

        Raises
        ------
        ValueError
            If shapes do not fit, or ``out`` is read-only or overlaps an input.
        TypeError
            If an argument is not real.

        Examples
        --------
        >>> import numpy as np, pyrnn
        >>> rnn = pyrnn.RNN(1, 2, batch_first=True, bidirectional=True, rng=0)
        >>> out, h_n = rnn(np.ones((3, 4, 1), np.float32), lengths=[4, 0, 2])
        >>> out.shape, bool((out[2, 2:] == 0).all()), bool((h_n[0, 2] == out[2, 1, :2]).all())
        ((3, 4, 4), True, True)
        """
        x, h0, lengths, inputs = self._inputs(x, h0, lengths)
        o, h_n = self._targets(out, (self._out_shape(x), self._state_shape(x)), inputs)
        tape = self._run(x, h0, lengths)
        self._time_first(o, x.ndim == 3)[...] = stack.output_of(self, tape, self._workspace)
        tape.last_states(_with_batch(h_n))
        return o, h_n

    @property
    def layer_states(self) -> tuple[np.ndarray, ...]:
        """The states of the last call by layer, and in each by direction: copies, (T, B, H) or as x lies."""
        tape = self._last_tape()
        return self._by_layer(tape.states)

    @property
    def layer_rates(self) -> tuple[np.ndarray, ...]:
        """phi of the last call's pre-activations, or of its currents: as `layer_states`, and the same without leak."""
        tape = self._last_tape()
        return self._by_layer(tape.states if self._alpha is None else tape.rates)

    def _by_layer(self, arrays: Iterable[np.ndarray]) -> tuple[np.ndarray, ...]:
        H = self.hidden_size
        parts = (a[:, :, i : i + H] for a in arrays for i in range(0, a.shape[2], H))
        return tuple((self._time_first(a, True) if self._batched else a[:, 0]).copy() for a in parts)

    def _last_tape(self) -> stack.Tape:
        if self._tape is None:
            raise RuntimeError("nothing was computed yet: call the RNN first")
        return self._tape

    def _run(self, x: np.ndarray, h0: np.ndarray | None, lengths: np.ndarray | None) -> stack.Tape:
        """Forward on checked arguments."""
        self._tape, self._batched = None, x.ndim == 3
        x, h0 = self._time_first(x, self._batched), None if h0 is None else _with_batch(h0)
        if lengths is not None:
            lengths = lengths.reshape(-1)
            lengths = None if (lengths == len(x)).all() else lengths
        self._update_alpha()
        self._tape = stack.forward_rnn(self, x, h0, lengths)
        self._changed, self._from_own_h0 = False, h0 is None
        return self._tape

    # ---- Backward ---------------------------------------------------------------------------------------------------
    def backward(
        self,
        dout: ArrayLike | None,
        dh_n: ArrayLike | None = None,
        *,
        accumulate: bool = False,
        x_gradient: bool = True,
        rates: Callable[[stack.Tape, int, np.ndarray], object] | None = None,
        out: tuple[np.ndarray | None, np.ndarray | None] | None = None,
    ) -> RNNGradients:
        """Gradients of a loss through the last call; those of the parameters are in `gradients`.

        Parameters
        ----------
        dout : array_like, shape of the outputs, or None
            What the loss sends into each output; not read behind the ends of sequences.
        dh_n : array_like, shape of h_n, optional
            What the loss sends into the last states.
        accumulate : bool
            Whether to add to what `gradients` holds, instead of writing over it.
        x_gradient : bool
            Whether the gradient of x is wanted.
        rates : callable, optional
            ``rates(tape, layer, dr)`` is called for each layer, the top one first, and may add to dr in place: the
            gradient (T, B, D H) of what the layer sends up, which is ``tape.sent(layer)``. Time comes first, also with
            batch_first. So penalties of rates such as `pyrnn.training.RatesL2` take part without a second pass.
        out : tuple of two ndarray or None, optional
            Where to write the gradients of x and h0, of their shape and the RNN's dtype.

        Returns
        -------
        RNNGradients
            Named tuple ``(x, h0, alpha)``: x is None without `x_gradient`; h0 is there without an h0 too; alpha is None
            without leak, and the sum over layers, directions, and units if it is one number.

        Raises
        ------
        RuntimeError
            If no call came before, or parameters were assigned since.
        ValueError, TypeError
            If an argument does not fit.

        Notes
        -----
        The gradient is that of the call with the dropout that it drew. It may be asked for many times.

        Examples
        --------
        >>> import numpy as np, pyrnn
        >>> rnn = pyrnn.RNN(1, 2, nonlinearity="identity", dtype=np.float64, rng=0)
        >>> out, h_n = rnn(np.ones((1, 1)))
        >>> _ = rnn.backward(None, dh_n=np.ones((1, 2)))
        >>> rnn.gradients  # by U, W, and both biases
        array([1., 1., 0., 0., 0., 0., 1., 1., 1., 1.])
        """
        tape = self._last_tape()
        if self._changed:
            raise RuntimeError("parameters were changed since the last call: call the RNN again")
        if dout is None and dh_n is None:
            raise ValueError("dout or dh_n must be given, got None for both")
        x, h0 = self._time_first(tape.inputs[0], True) if self._batched else tape.inputs[0][:, 0], tape.h0
        given = {"dout": dout, "dh_n": dh_n, "x": x, "h0": h0}
        dout, dh_n = (None if a is None else self._real(name, a) for name, a in (("dout", dout), ("dh_n", dh_n)))
        _checks.check_shape("dout", dout, self._out_shape(x), "x", x)
        _checks.check_shape("dh_n", dh_n, self._state_shape(x), "x", x)
        accumulate = _boolean("accumulate", accumulate)
        if rates is not None and not callable(rates):
            raise TypeError(f"rates must be a function of tape, layer and gradient, got {rates!r:.80}")
        x_gradient = _boolean("x_gradient", x_gradient)
        if not x_gradient and isinstance(out, tuple) and len(out) == 2 and out[0] is not None:
            raise ValueError(f"out[0] must be None without x_gradient, got {type(out[0]).__name__}")
        places = x.shape if x_gradient else None, self._state_shape(x)
        dx, dh0 = self._targets(out, places, (given, (dout, dh_n, x, h0)))
        if dout is not None:
            dout = self._time_first(dout, self._batched)
        alpha = self._backward(
            dout,
            None if dh_n is None else _with_batch(dh_n),
            None if dx is None else self._time_first(dx, self._batched),
            _with_batch(dh0),
            accumulate,
            rates,
        )
        if alpha is not None:
            alpha = alpha.copy() if np.ndim(self.alpha) else _total(alpha)
        return RNNGradients(dx, dh0, alpha)

    def _backward(
        self,
        dout: np.ndarray | None,
        dh_n: np.ndarray | None,
        dx: np.ndarray | None,
        dh0: np.ndarray,
        accumulate: bool = False,
        rates: Callable[[stack.Tape, int, np.ndarray], object] | None = None,
    ) -> np.ndarray | None:
        """Backward on checked arguments, time first."""
        tape = self._last_tape()
        if dout is None:
            T, B = tape.inputs[0].shape[:2]
            dout = self._workspace("no dout", (T, B, self._output_columns()), self.dtype)
            dout[...] = 0
        if not accumulate:
            self._gradients[...] = 0
        return stack.backward_rnn(self, tape, dout, dh_n, dx, dh0, rates)

    def loss_and_gradients(
        self,
        x: ArrayLike,
        targets: ArrayLike,
        *,
        loss: Loss = "softmax_cross_entropy",
        h0: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        weights: ArrayLike | None = None,
        out: np.ndarray | None = None,
    ) -> tuple[np.float64, np.ndarray]:
        """Loss of the outputs on sequences, and its gradient with respect to all parameters.

        Parameters
        ----------
        x, h0, lengths
            As in a call of the RNN.
        targets : array_like
            What the loss expects: classes (T, B), or numbers of the shape of the outputs; with batch_first (B, T ...).
            Anything behind the ends of sequences.
        loss : {"softmax_cross_entropy", "squared_error", "binary_cross_entropy", "poisson", "huber"}
            One of the losses of `pyrnn` and `pyrnn.training`; "huber" with delta 1.
        weights : array_like, shape (T, B), (B, T) with batch_first, or (T,), optional
            Multiplies the loss of each step; where targets are numbers, weights may have the shape of the outputs, one
            for each. Those behind the ends of sequences count as 0. Where it is 0 the target is not read, but the input
            is: the step still moves the state, and a NaN in its x makes the gradients NaN.
            Steps behind the ends, by `lengths`, are not read at all.
        out : ndarray, shape of `parameters`, optional
            Where to write the gradient; ``rnn.gradients`` itself to save the copy.

        Returns
        -------
        loss : float
            Summed over time and batch.
        gradient : ndarray, shape of `parameters`
            A copy of `gradients`, which is set too, so that no later call changes it; ``out`` if that was given.

        Raises
        ------
        ValueError, TypeError
            As in a call of the RNN, and from the losses.

        Examples
        --------
        An objective for SciPy:

        >>> import numpy as np, pyrnn
        >>> from scipy.optimize import minimize
        >>> rnn = pyrnn.RNN(1, 4, output_size=1, dtype=np.float64, rng=0)
        >>> x = np.sin(np.arange(40.0))[:, None]
        >>> def objective(vector):
        ...     rnn.parameters = vector
        ...     return rnn.loss_and_gradients(x[:-1], x[1:], loss="squared_error")
        >>> bool(minimize(objective, rnn.parameters, jac=True, method="L-BFGS-B").fun < 0.5)
        True
        """
        check_loss(loss)
        x, h0, lengths, _ = self._inputs(x, h0, lengths)
        steps, batched = x.shape[:-1], x.ndim == 3
        targets = _checks.as_array("targets", targets)
        shape = steps if of_classes(loss) else self._out_shape(x)
        _checks.check_shape("targets", targets, shape, "x", x)
        targets = self._time_first(targets, batched)
        if weights is not None:
            (weights,) = _checks.as_real_arrays(weights=weights)
            shapes = (steps,) if of_classes(loss) else (steps, self._out_shape(x))
            if weights.shape not in shapes:
                _checks.shape_error("weights", " or ".join(map(str, shapes)), weights, "x", x)
            weights = self._time_first(weights, batched)
        if out is not None and out is not self._gradients:
            inputs = {"x": x, "targets": targets, "weights": weights, "h0": h0}
            inputs |= {"parameters": self._parameters, "gradients": self._gradients}
            _checks.check_out(out, self._parameters.shape, self.dtype, inputs, inputs.values())
        tape, new = self._run(x, h0, lengths), self._workspace
        if tape.lengths is not None:
            padded = stack.padded(tape.lengths, len(targets), new)
            given, dtype = weights, self.dtype if weights is None else weights.dtype
            weights = new(("weights", dtype), padded.shape if given is None else given.shape, dtype)
            weights[...] = 1 if given is None else given
            np.copyto(weights, 0, where=padded if weights.ndim == 2 else padded[..., np.newaxis])
        value, dout = LOSSES[loss](stack.output_of(self, tape, new), targets, weights)
        self._backward(dout.astype(self.dtype, copy=False), None, None, new("dh0 of loss", tape.h0.shape, self.dtype))
        if out is None:
            return value, self._gradients.copy()
        if out is not self._gradients:
            out[...] = self._gradients
        return value, out

    # ---- Texts, files and copies ------------------------------------------------------------------------------------
    def summary(self) -> str:
        """Describe the network: its layers, its cell, its parameters and their constraints.

        Returns
        -------
        str
            Lines of text. In the table, the free numbers of a parameter are those that are trained, ``masked`` ones are
            0, ``frozen`` ones keep their value, and ``signed`` are those of the free ones that keep their sign, in the
            way that the last column names.

        See Also
        --------
        pyrnn.training.Constraint : what masks, freezes and signs weights.

        Examples
        --------
        >>> import numpy as np, pyrnn
        >>> constraint = pyrnn.training.Constraint(mask=~np.eye(4, dtype=bool), signs=[1, 1, 1, -1])
        >>> options = {"output_size": 2, "output_units": [0, 1, 2], "noise": 0.1, "train_h0": True}
        >>> rnn = pyrnn.RNN(3, 4, nonlinearity="relu", alpha=0.2, constraints={"weight_hh_l0": constraint}, **options)
        >>> print(rnn.summary())
        RNN of 1 layer, one direction
          inputs      3
          units       4 in each layer
          outputs     2, of 3 of the units
          cell        relu
          leak        alpha 0.2, form rate
          noise       0.1, in training
          start       h0, trained
          dtype       float32
          parameter     shape   numbers  free  masked  frozen  signed
          weight_ih_l0  (4, 3)       12    12
          weight_hh_l0  (4, 4)       16    12       4       0      12  rectified
          bias_ih_l0    (4,)          4     4
          bias_hh_l0    (4,)          4     4
          weight_out    (2, 3)        6     6
          bias_out      (2,)          2     2
          h0            (1, 4)        4     4
          total                      48    44
        """
        return summary(self)

    def save(self, path: Path) -> None:
        """Write parameters and the arguments of the constructor, but rng, to a file.

        Parameters
        ----------
        path : str or os.PathLike
            Ends in .npz, or in .safetensors, which needs the package safetensors and which PyTorch reads.

        Raises
        ------
        ValueError
            If the path ends otherwise; or in .safetensors, of an RNN with constraints: others that read such files
            would take its raw weights for weights.
        ImportError
            If the package is not there.
        """
        files.save(path, self._arguments(), self.state_dict())

    @classmethod
    def load(cls, path: Path, *, rng: Seed = None) -> Self:
        """The RNN that `save` wrote, in training mode.

        Parameters
        ----------
        path : str or os.PathLike
        rng : int, numpy.random.Generator or None
            For dropout.

        Returns
        -------
        RNN

        Raises
        ------
        ValueError
            If the file was written by something else, is damaged, or holds other arrays than it declares. Nothing is
            built then.
        OSError
            If the file cannot be read.
        ImportError
            If the package safetensors is needed and not there.

        Notes
        -----
        Nothing in the file is run: it holds arrays and JSON, and no pickle is read. Memory is taken for what the file
        holds, not for what it declares: an .npz that unpacks to over 4 MB and a hundred times its size is refused.
        """
        arguments, state = files.load(path)
        try:
            rnn = cls(**arguments, rng=rng)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} has arguments that {cls.__name__} does not take: {error}") from None
        try:
            with np.errstate(invalid="ignore"):  # of NaN that signal, which become quiet
                rnn.load_state_dict(state)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from None
        return rnn

    def _arguments(self) -> dict[str, Any]:
        """Those of the constructor as JSON knows them, but the constraints."""
        arguments = {name: self._argument(name) for name in _ARGUMENTS}
        lists = {name: a.tolist() for name, a in arguments.items() if isinstance(a, np.ndarray)}
        return arguments | lists | {"dtype": self.dtype.name, "alpha_bounds": list(self.alpha_bounds)}

    def _argument(self, name: str) -> Any:
        """What the constructor was given, as it keeps it."""
        if name == "alpha":
            return self._given_alpha
        return self.constraints or None if name == "constraints" else getattr(self, name)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in _MADE}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if not self._parameters.flags.writeable:  # joblib maps large arrays read-only
            self._parameters = self._parameters.copy()
        if not self._gradients.flags.writeable:
            self._gradients = self._gradients.copy()
        self._prepare()

    def __copy__(self) -> Self:
        other = object.__new__(type(self))
        other.__setstate__(self.__getstate__() | {"_gradients": self._gradients.copy()})
        return other

    def __repr__(self) -> str:
        options = []
        for name, default in _ARGUMENTS.items():
            value = self._argument(name)
            if isinstance(value, np.ndarray) or value != default:
                options.append(f"{name}={value if name == 'dtype' else repr(value)}")
        return f"{type(self).__name__}({', '.join([str(self.input_size), str(self.hidden_size), *options[2:]])})"

    # ---- Shapes and checks ------------------------------------------------------------------------------------------
    def _inputs(
        self, x: ArrayLike, h0: ArrayLike | None, lengths: ArrayLike | None
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None, _Inputs]:
        """The arguments of a call checked; last, what nothing may be written to, as given and as arrays."""
        given = {"x": x, "h0": h0}
        x, h0 = self._real("x", x), None if h0 is None else self._real("h0", h0)
        I = self.input_size
        if x.ndim not in (2, 3) or x.shape[-1] != I:
            _checks.shape_error("x", f"({'B, T' if self.batch_first else 'T, B'}, {I}) or (T, {I})", x)
        _checks.check_shape("h0", h0, self._state_shape(x), "x", x)
        if lengths is not None:
            lengths = _checks.as_array("lengths", lengths)
            _checks.check_shape("lengths", lengths, self._state_shape(x)[1:-1], "x", x)
            lengths, _, _ = _steps.check(lengths, None, False, self._time_first(x, True) if x.ndim == 3 else x)
        return x, h0, lengths, (given, (x, h0))

    def _targets(
        self,
        out: tuple[np.ndarray | None, np.ndarray | None] | None,
        shapes: tuple[Shape | None, Shape],
        inputs: _Inputs,
    ) -> tuple[Any, np.ndarray]:
        """The two arrays to write results to; None in place of the first one where its shape is None."""
        if out is None:
            return None if shapes[0] is None else np.empty(shapes[0], self.dtype), np.empty(shapes[1], self.dtype)
        if not isinstance(out, tuple) or len(out) != 2:
            raise TypeError(f"out must be a tuple of two arrays or None, got {type(out).__name__}")
        given, arrays = inputs
        given = given | {"parameters": self._parameters, "gradients": self._gradients, "out[0]": None}
        arrays = (*arrays, self._parameters, self._gradients, None)
        for i, (a, shape) in enumerate(zip(out, shapes, strict=True)):
            if a is not None and shape is not None:
                _checks.check_out(a, shape, self.dtype, given, arrays, name=f"out[{i}]")
            given = given | {"out[0]": a}
        first: Any
        second: Any
        first, second = (
            np.empty(s, self.dtype) if a is None and s is not None else a for a, s in zip(out, shapes, strict=True)
        )
        return first, second

    def _output_columns(self) -> int:
        return (1 + self.bidirectional) * self.hidden_size if self.output_size is None else self.output_size

    def _out_shape(self, x: np.ndarray) -> Shape:
        return (*x.shape[:-1], self._output_columns())

    def _state_shape(self, x: np.ndarray) -> Shape:
        """The shape of h0 and h_n."""
        batch = () if x.ndim == 2 else (x.shape[0 if self.batch_first else 1],)
        return (self.num_layers * (1 + self.bidirectional), *batch, self.hidden_size)

    def _time_first(self, a: np.ndarray, batched: bool) -> np.ndarray:
        """[T, B, ...] of an array that lies as a user's does."""
        if not batched:
            return a[:, np.newaxis]
        return a.swapaxes(0, 1) if self.batch_first else a

    def _real(self, name: str, a: ArrayLike) -> np.ndarray:
        """The argument in the RNN's dtype."""
        (array,) = _checks.as_real_arrays(**{name: a})
        return array if array.dtype == self.dtype else array.astype(self.dtype, order="C")


# ---- What `pyrnn.fit` calls, which has checked its batch -------------------------------------------------------------
def outputs_of(rnn: RNN, x: np.ndarray, lengths: np.ndarray | None) -> np.ndarray:
    """The outputs of a call, as x [T, B, I] or [B, T, I] lies, in memory of the RNN: the next call writes over it."""
    o, new = stack.output_of(rnn, rnn._run(x, None, lengths), rnn._workspace), rnn._workspace
    if rnn.output_size is None:  # they are the states, which nobody else may change
        states, o = o, new("o", o.shape, o.dtype)
        o[...] = states
    return rnn._time_first(o, True)


def gradients_of(
    rnn: RNN, dout: np.ndarray, rates: Callable[[stack.Tape, int, np.ndarray], object] | None = None
) -> None:
    """Write ``rnn.gradients`` of the last call for dout, which lies as its outputs."""
    dout = dout if dout.dtype == rnn.dtype else dout.astype(rnn.dtype)
    dh0 = rnn._workspace("dh0", rnn._last_tape().h0.shape, rnn.dtype)
    rnn._backward(rnn._time_first(dout, True), None, None, dh0, rates=rates)


# The arguments of the constructor but rng, with the values that repr leaves out.
_ARGUMENTS = {
    "input_size": None,
    "hidden_size": None,
    "num_layers": 1,
    "nonlinearity": "tanh",
    "bias": True,
    "batch_first": False,
    "bidirectional": False,
    "dropout": 0.0,
    "recurrent_dropout": 0.0,
    "alpha": 1.0,
    "form": "rate",
    "output_size": None,
    "dtype": np.float32,
    "negative_slope": NEGATIVE_SLOPE,
    "noise": 0.0,
    "constraints": None,
    "train_h0": False,
    "train_alpha": False,
    "alpha_bounds": ALPHA_BOUNDS,
    "output_units": None,
}
_FIXED = frozenset(_ARGUMENTS) - {"dropout", "recurrent_dropout", "noise"}
# Attributes that follow from the others: no pickle holds them.
_MADE = frozenset(
    {"_views", "_gradient_views", "_alpha", "_alpha_slope", "_cell", "_constrained", "_V", "_layers", "_sums"}
    | {"_drive_sigma", "_workspace", "_tape", "_batched", "_changed", "_from_own_h0"}
)


@QUIET
def _total(a: np.ndarray) -> Any:
    return a.sum()


def _with_batch(a: np.ndarray) -> np.ndarray:
    """[L D, B, H] of h0 or h_n."""
    return a[:, np.newaxis] if a.ndim == 2 else a


def _boolean(name: str, value: object) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def _probability(name: str, p: float) -> float:
    if isinstance(p, bool) or not _checks.is_finite_number(p) or not 0 <= p <= 1:
        raise ValueError(f"{name} must be a number from 0 to 1, got {p!r}")
    return float(p)


def _leak(alpha: ArrayLike, H: int) -> float | np.ndarray:
    """A number, or an array that nobody writes to."""
    (a,) = _checks.as_real_arrays(alpha=alpha)
    if a.shape not in ((), (H,)):
        raise ValueError(f"alpha must be a number or have shape ({H},), got {a.shape}")
    if not np.isfinite(a).all():
        raise ValueError(f"alpha must be finite, got {alpha!r}")
    if a.ndim == 0:
        return float(a)
    return _fixed(a)


def _bounds(bounds: Any, trained: bool, alpha: float | np.ndarray) -> tuple[float, float]:
    """The bounds of a trained alpha, which starts strictly between them."""
    (a,) = _checks.as_real_arrays(alpha_bounds=bounds)
    if a.shape != (2,) or not np.isfinite(a).all() or not a[0] < a[1]:
        raise ValueError(f"alpha_bounds must be two finite numbers, the lower one first, got {bounds!r}")
    low, high = (float(bound) for bound in a.astype(np.float64))
    if not trained and (low, high) != ALPHA_BOUNDS:
        raise ValueError(f"alpha_bounds must be left at {ALPHA_BOUNDS} without train_alpha, got {bounds!r}")
    if trained and not (np.greater(alpha, low) & np.less(alpha, high)).all():
        raise ValueError(
            f"alpha must start strictly between the alpha_bounds, {low} and {high}, to be trained, got {alpha!r}"
        )
    return low, high


def _units(units: ArrayLike | None, H: int, output_size: int | None, bidirectional: bool) -> np.ndarray | None:
    """The indices of the units that the output layer reads, an array that nobody writes to."""
    if units is None:
        return None
    if output_size is None:
        raise ValueError(f"output_units must come with output_size, got {units!r} without it")
    if bidirectional:
        raise ValueError(f"output_units must be None in a bidirectional RNN, got {units!r}")
    a = _checks.as_array("output_units", units)
    if a.dtype.kind == "b":
        _checks.check_shape("output_units", a, (H,))
        a = np.flatnonzero(a)
    elif a.size and a.dtype.kind not in "iu":
        raise TypeError(f"output_units must be integers or booleans, got dtype {a.dtype}")
    if a.ndim != 1 or not len(a):
        raise ValueError(f"output_units must be one unit or more, shape (k,), or booleans ({H},), got {units!r:.80}")
    if a.min() < 0 or a.max() >= H or len(np.unique(a)) < len(a):
        raise ValueError(f"output_units must be different units from 0 to {H - 1}, got {units!r:.80}")
    return _read_only(a.astype(np.intp))


def _checked_constraints(constraints: Any, shapes: Mapping[str, Shape]) -> dict[str, Constraint]:
    """Constraints that fit the parameters of their names."""
    if constraints is None:
        return {}
    if not isinstance(constraints, Mapping):
        raise TypeError(f"constraints must be a mapping of names to constraints, got {type(constraints).__name__}")
    known = [name for name in shapes if name.startswith("weight")]
    for name, constraint in constraints.items():
        if name not in known:
            raise ValueError(f"constraints must be of weights of the RNN, {parameters.listed(known)}, got {name!r:.80}")
        if not isinstance(constraint, Constraint):
            raise TypeError(f"constraints[{name!r}] must be a pyrnn.training.Constraint, got {constraint!r:.80}")
        for kind, a in (("mask", constraint.mask), ("frozen", constraint.frozen)):
            _checks.check_shape(f"{kind} of constraints[{name!r}]", a, shapes[name])
        _checks.check_shape(f"signs of constraints[{name!r}]", constraint.signs, shapes[name][1:])
    return {name: constraints[name] for name in known if name in constraints}


def _fixed(a: np.ndarray) -> np.ndarray:
    """A copy in float64 that nobody writes to."""
    return _read_only(np.array(a, np.float64))


def _read_only(a: np.ndarray) -> np.ndarray:
    a.flags.writeable = False
    return a


def _parameter_values(name: str, values: Any) -> np.ndarray:
    """Values to copy into parameters, also of a tensor that PyTorch would differentiate."""
    if hasattr(values, "detach"):
        values = values.detach()
    return next(iter(_checks.as_real_arrays(**{name: values})))
