"""The autoencoder of sequences: networks as points of R^d, and every point of R^d as a network.

Encoder: a GRU over the layers, both ways; its last states, by a linear map, are the code z. Decoder: a GRU that is
given z at its start and at every layer, with the layer before; it scores each field's options (operator, kernel, ...),
a token's score is the sum over its fields, and tokens that can't stand where the sequence is (`Automaton.allowed`) are
left out before the softmax. So whatever z is, what is decoded is a network of the space, and the mask is the same in
training and in use.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from bitsmith.search.latent.convex import ConvexPredictor
from bitsmith.space import ADDITIVE, Automaton

PREDICTED = ("params", "macs")  # their logarithms


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Widths:
    """Sizes of an autoencoder.

    Args:
        code: d, numbers of a code.
        encoder, decoder: states of the GRUs (the encoder has two).
        token: numbers that a token is read as.
        predictor: of each hidden layer of the convex predictor.
    """

    code: int = 16
    encoder: int = 96
    decoder: int = 192
    token: int = 48
    predictor: int = 64


@final
class Autoencoder(nn.Module):
    """Encoder, masked decoder and convex predictor of the sequences of a space.

    Sequences are int64 [n, length] as of `Automaton`; codes are float32 [n, d].

    Args:
        automaton: of the space.
        widths: sizes.

    Attributes:
        mean, deviation: of the logarithms of the predicted costs over the space; the predictor works in units of these.
    """

    def __init__(self, automaton: Automaton, widths: Widths) -> None:
        super().__init__()
        self.automaton, self.widths = automaton, widths
        self._allowed = torch.from_numpy(automaton.allowed)
        self._next = torch.from_numpy(automaton.next)
        self._fields = torch.from_numpy(_one_hot(automaton))  # [tokens, options of all fields]
        options = self._fields.shape[1]
        self.embed = nn.Linear(options, widths.token)
        self.encoder = nn.GRU(widths.token, widths.encoder, batch_first=True, bidirectional=True)
        self.to_code = nn.Linear(2 * widths.encoder, widths.code)
        self.from_code = nn.Linear(widths.code, widths.decoder)
        self.decoder = nn.GRU(widths.token + widths.code, widths.decoder, batch_first=True)
        self.score = nn.Linear(widths.decoder, options)
        self.predictor = ConvexPredictor(widths.code, len(PREDICTED), widths.predictor)
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(len(PREDICTED)))
        self.register_buffer("deviation", torch.ones(len(PREDICTED)))

    def encode(self, sequences: Tensor) -> Tensor:
        """The codes of sequences."""
        _, last = self.encoder(self._tokens()[sequences])  # [2, n, encoder]
        return self.to_code(torch.cat([last[0], last[1]], dim=1))

    def loss(self, codes: Tensor, sequences: Tensor) -> Tensor:
        """-log probability of each sequence given its code, [n]: over all layers, and the end where there is room."""
        n, length = sequences.shape
        before = torch.cat([torch.zeros(n, 1, dtype=torch.int64), sequences[:, :-1]], dim=1)
        tokens = self._tokens()[before]
        tokens = torch.cat([torch.zeros(n, 1, tokens.shape[2]), tokens[:, 1:]], dim=1)  # nothing before the first
        hidden, _ = self.decoder(torch.cat([tokens, codes[:, None].expand(n, length, -1)], dim=2), self._start(codes))
        scores = self.score(hidden) @ self._fields.T  # [n, length, tokens]
        states = torch.from_numpy(self.automaton.walk(sequences.numpy())[:, :-1])
        allowed = self._allowed[torch.arange(length), states]
        scores = scores.masked_fill(~allowed, -torch.inf)
        loss = scores.logsumexp(2) - scores.gather(2, sequences[..., None])[..., 0]
        ended = before == 0
        ended[:, 0] = False
        return torch.where(ended, 0.0, loss).sum(1)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """The sequence of each code: at every layer the token that scores best of those that may stand there."""
        n, length = len(codes), self.automaton.length
        found = torch.zeros(n, length, dtype=torch.int64)
        states, ended = torch.zeros(n, dtype=torch.int64), torch.zeros(n, dtype=torch.bool)
        token, hidden, tokens = torch.zeros(n, self.widths.token), self._start(codes), self._tokens()
        for at in range(length):
            output, hidden = self.decoder(torch.cat([token, codes], dim=1)[:, None], hidden)
            scores = self.score(output[:, 0]) @ self._fields.T
            best = scores.masked_fill(~self._allowed[at, states], -torch.inf).argmax(1)
            found[:, at] = torch.where(ended, 0, best)
            ended = ended | (best == 0)
            states = torch.where(ended, states, self._next[states, best])
            token = tokens[found[:, at]]
        return found

    def predict(self, codes: Tensor) -> Tensor:
        """Predicted logarithms of PREDICTED, [n, 2]; each convex in the code."""
        return self.predictor(codes) * self.deviation + self.mean

    def _tokens(self) -> Tensor:
        return self.embed(self._fields)

    def _start(self, codes: Tensor) -> Tensor:
        return torch.tanh(self.from_code(codes))[None]


def predicted_costs(costs: np.ndarray) -> np.ndarray:
    """The logarithms of PREDICTED among the costs of many networks (`SequenceCosts.of`), float32 [n, 2]."""
    return np.log(costs[:, [ADDITIVE.index(name) for name in PREDICTED]]).astype(np.float32)


def _one_hot(automaton: Automaton) -> np.ndarray:
    """Which option each token has in each field, the end apart, float32 [tokens, options of all fields]."""
    rows = [astuple(token) for token in automaton.tokens if token is not None]
    columns = sorted({(i, str(value)) for row in rows for i, value in enumerate(row)})
    place = {column: k for k, column in enumerate(columns, start=1)}
    found = np.zeros((len(rows) + 1, len(columns) + 1), dtype=np.float32)
    found[0, 0] = 1
    for number, row in enumerate(rows, start=1):
        for i, value in enumerate(row):
            found[number, place[i, str(value)]] = 1
    return found
