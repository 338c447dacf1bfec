"""Several processes of one machine that train one network: data parallel, with whole copies or with shards.

    child (first process)                              peers (executors/peer.py), in the child's process group
      gather: starts the peers with the same task        run the same kind on the same inputs, silently
      training.train ──────── join: a process group over loopback (gloo) or between GPUs (nccl) ──────── training.train
      reports, saves, answers                            leave when the training is over

    sharding none   Replicas: every process has the network; gradients are added up after the last part of a step (DDP)
    sharding full   Shards: every process has a share of each parameter and its moments (FSDP2, fully_shard); a layer is
                    whole only while it computes

A step's batch is cut into as many shares as there are processes, in the order of the batch, and every loss is divided
by the targets of all: the sum of the gradients is that of one process with the same batch, up to the order in which
numbers are added. What a clock or a message decides is decided by the first process. Messages between processes are
tensors and msgpack, never pickles.

A run resumes exactly with the same number of processes and the same sharding; both are in the fingerprint. Checkpoints
hold whole tensors, so another number of processes goes on from them, too, not exactly. The peers' generators are
seeded anew at every step (from the seed, the step and their number), so that a checkpoint needs only the first one's.

Not covered: several machines; gradients that travel while others are still computed (Replicas); a network whose layers
are called past their `forward` (Shards); kinds that compute a step's gradients by themselves or keep a state beside the
network, which are refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import numpy as np
import psutil
import torch
import torch.distributed as dist
from torch import Tensor, nn

from executors.data import Ints
from executors.device import Device
from executors.port import Job, Stopped
from executors.team import StopAsked, Team, Value
from executors.trainable import Base, Trainable
from mesh import codec
from mesh.errors import DataRefused, OutOfMemory, Retry, TaskRefused

PATIENCE_S = 1800.0
"""How long a process waits for the others: one that evaluates or writes the last checkpoint keeps them waiting."""

BUCKET_BYTES = 25 * 1024 * 1024
"""Gradients travel in pieces of this size: one message per tensor would wait more than it sends."""

TOLD_BYTES_MAX = 64 * 1024
"""A word of the first process: a reason, a plan, an evaluation."""

LOST_WORDS = ("gloo", "NCCL", "Connection closed by peer", "Socket Timeout")
"""How the ways to talk put it that somebody does not answer; some of their errors have no class of their own."""

FAILED = "failed-{rank}.json"
"""What a peer leaves in the meeting place when it fails."""


class Dismissed(BaseException):
    """The training is over, and this process is not the first one: nothing that the kind does next is its business."""


@contextlib.contextmanager
def together(job: Job, trainable: Trainable, device: Device) -> Iterator[Team]:
    """Inside, this process trains with its team. Every process but the first one leaves it with Dismissed.

    TaskRefused, DataRefused for what can not be shared out; the trouble of another process as that process told it.
    """
    refuse_lonely(job, trainable)
    with said_why(job.allotment.meeting):
        team = _joined(job, device)
        try:
            yield team
        except BaseException as error:
            if isinstance(error, Stopped) or dist.get_backend() == "gloo":  # nccl would wait for the others
                dist.destroy_process_group()
            raise
    dist.destroy_process_group()
    if team.rank:
        raise Dismissed


def _joined(job: Job, device: Device) -> Team:
    allotment = job.allotment
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(name, _loopback())
    dist.init_process_group(
        "nccl" if device.name.startswith("cuda") else "gloo",
        init_method=f"file://{allotment.meeting}/group",
        rank=allotment.rank,
        world_size=allotment.processes,
        timeout=dt.timedelta(seconds=PATIENCE_S),
    )
    kind = Shards if job.settings.sharding == "full" else Replicas
    return kind(allotment.rank, allotment.processes, device.torch, job.seed)


def _loopback() -> str:
    """The network interface that only this machine sees."""
    found = psutil.net_if_addrs().items()
    return next((name for name, addresses in found if any(one.address == "127.0.0.1" for one in addresses)), "lo")


def refuse_lonely(job: Job, trainable: Trainable) -> None:
    """TaskRefused, DataRefused for a training that its processes could not share out."""
    allotment, rows = job.allotment, trainable.rows
    own = [
        name for name in ("gradients", "moved", "state") if getattr(type(trainable), name) is not getattr(Base, name)
    ]
    if own:
        raise TaskRefused(
            f"{job.kind} brings its own {' and '.join(own)} to a step, which several processes can not share: "
            "set processes to 1"
        )
    if allotment.gpus and allotment.gpus < allotment.processes:
        raise TaskRefused(
            f"{allotment.processes} processes train with a GPU each, and {allotment.gpus} are leased: "
            "ask for as many GPUs as processes"
        )
    batch = min(job.settings.batch or rows, rows)
    smallest = rows % batch or batch
    if job.settings.sharding == "full" and smallest < allotment.processes:
        raise DataRefused(
            f"the last batch of an epoch has {smallest} examples, fewer than the {allotment.processes} processes that "
            "share it: choose another batch"
        )


@contextlib.contextmanager
def said_why(meeting: str) -> Iterator[None]:
    """Inside, an error that is only the echo of another process's trouble is raised as that trouble."""
    try:
        yield
    except RuntimeError as error:
        for path in sorted(Path(meeting).glob(FAILED.format(rank="*"))) if meeting else ():
            told = json.loads(path.read_text("utf-8"))
            kinds = {"memory": OutOfMemory, "reject": TaskRefused}
            raise kinds.get(told["class"], Retry)(f"process {told['rank']} of the team: {told['reason']}") from None
        if isinstance(error, dist.DistError) or any(word in str(error) for word in LOST_WORDS):
            raise Retry(f"the processes that train together lost each other: {str(error)[:300]}") from None
        raise


class _Together(Team):
    """What both ways of sharing have in common."""

    def __init__(self, rank: int, size: int, device: torch.device, seed: int) -> None:
        self.rank, self.size = rank, size
        self._device, self._seed = device, seed

    def parts(self, rows: Ints, most: int) -> list[Ints]:
        """A contiguous share of the rows, in as many parts as every other process has: between two of them all agree
        whether to stop. Where shares are uneven a part may have one row more than `most`; with fewer rows than
        processes some have none."""
        shares = np.array_split(rows, self.size)
        count = min(-(-len(shares[0]) // most), max(1, len(shares[-1])))
        return [part for part in np.array_split(shares[self.rank], count) if len(part)]

    def begin(self, number: int) -> None:
        """Peers draw other random numbers than the first process, and the same ones when a step is taken again."""
        if self.rank:
            drawn = hashlib.sha256(f"{self._seed} {self.rank} {number}".encode()).digest()
            torch.manual_seed(int.from_bytes(drawn[:8], "big") >> 1)

    def total(self, value: float) -> float:
        """The sum in float64."""
        told = torch.tensor([value], dtype=torch.float64, device=self._device)
        dist.all_reduce(told)
        return float(told)

    def agreed(self, value: Value) -> Value:
        """What the first process says, as a value of the same type."""
        return msgspec.convert(self._told(msgspec.to_builtins(value)), type(value))

    def _told(self, value: Any) -> Any:
        """What the first process says, as plain values."""
        data = codec.pack(value) if self.rank == 0 else b""
        if len(data) > TOLD_BYTES_MAX:
            raise ValueError(f"{len(data)} bytes are more than the processes tell each other")
        size = torch.tensor([len(data)], dtype=torch.int64, device=self._device)
        dist.broadcast(size, 0)
        said = torch.zeros(int(size), dtype=torch.uint8, device=self._device)
        if self.rank == 0:
            said.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        dist.broadcast(said, 0)
        return codec.unpack(said.cpu().numpy().tobytes(), bytes_max=TOLD_BYTES_MAX)

    def facts(self) -> dict[str, Any]:
        """How many share, and how."""
        return {"processes": self.size, "sharding": type(self).__name__.lower()}


class Replicas(_Together):
    """Every process holds the whole network."""

    def wrap(self, network: nn.Module) -> None:
        """Begin with the weights and buffers of the first process."""
        with torch.no_grad():
            for tensor in network.state_dict().values():
                dist.broadcast(tensor, 0)

    def reduce(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add the gradients up, a bucket at a time. A parameter that had none here counts as zero."""
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        pending = []
        for bucket in _buckets([parameter.grad for parameter in parameters if parameter.grad is not None]):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            pending.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
        for bucket, flat, work in pending:
            assert work is not None
            work.wait()
            for gradient, piece in zip(bucket, flat.split([each.numel() for each in bucket]), strict=True):
                gradient.copy_(piece.view_as(gradient))

    def evaluated(self, work: Callable[[], Value]) -> Value:
        """The first process evaluates, and says what it found or that it was asked to stop; the others wait."""
        found: Any = None
        told: dict[str, Any] = {}
        failed: BaseException | None = None
        if self.rank == 0:
            try:
                found = work()
                told = {"found": dataclasses.asdict(found)}
            except StopAsked as asked:
                told = {"stop": str(asked)}
            except Exception as error:
                failed, told = error, {"failed": str(error)[:300]}
        told = self._told(told)
        if failed is not None:
            raise failed
        return _evaluation(told)


def _evaluation(told: Mapping[str, Any]) -> Any:
    """An evaluation as the first process told it; its errors as errors."""
    from executors.trainable import Evaluation

    if "stop" in told:
        raise StopAsked(told["stop"])
    if "failed" in told:
        raise Retry(f"the first process of the team could not evaluate: {told['failed']}")
    return Evaluation(**told["found"])


class Shards(_Together):
    """Every process holds a share of each parameter."""

    evaluates_alone = False

    def wrap(self, network: nn.Module) -> None:
        """Shard the network in place: the items of its lists of layers each by themselves, the rest together."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import FSDPModule, fully_shard

        for tensor in network.state_dict().values():
            dist.broadcast(tensor.detach(), 0)
        mesh = init_device_mesh(self._device.type, (self.size,))
        for module in list(network.modules()):
            if isinstance(module, nn.ModuleList):
                for layer in module:
                    if any(True for _ in layer.parameters()):
                        fully_shard(layer, mesh=mesh)
        fully_shard(network, mesh=mesh)
        for module in network.modules():
            if isinstance(module, FSDPModule):
                module.set_force_sum_reduction_for_comms(True)  # gloo can not average
                module.set_gradient_divide_factor(1.0)  # each loss was divided by the targets of all
                module.unshard()  # its memory is made here: made in an evaluation without gradients, it could
                module.reshard()  # not be trained in
        self._network: Any = network

    @contextlib.contextmanager
    def part(self, *, last: bool) -> Iterator[None]:
        """Gradients travel after the last part."""
        self._network.set_requires_gradient_sync(last)
        yield

    def clip(self, parameters: Sequence[nn.Parameter], most: float) -> Tensor:
        """The norm over all shards."""
        return _in_one_piece(nn.utils.clip_grad_norm_(parameters, most))

    def evaluated(self, work: Callable[[], Value]) -> Value:
        """All of them evaluate, for a layer is whole only with all; what the first one found counts."""
        found: Any = work()
        told: Any = self._told({"found": dataclasses.asdict(found)})
        return _evaluation(told)

    def whole(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Gather every tensor."""
        return {name: _in_one_piece(tensor) for name, tensor in tensors.items()}

    def divided(self, tensors: Mapping[str, Tensor], network: nn.Module) -> Mapping[str, Tensor]:
        """Keep this process's share of what belongs to a parameter."""
        from torch.distributed.tensor import DTensor, distribute_tensor

        like = network.state_dict()

        def share(name: str, tensor: Tensor) -> Tensor:
            own = like.get(name.partition(".")[2])
            if not isinstance(own, DTensor) or own.shape != tensor.shape:
                return tensor
            return distribute_tensor(tensor.to(self._device), own.device_mesh, own.placements, src_data_rank=None)

        return {name: share(name, tensor) for name, tensor in tensors.items()}

    def unwrap(self, network: nn.Module) -> None:
        """Put whole parameters back, and take away what made them shards."""
        from torch.distributed.fsdp import FSDPModule

        full = {name: _in_one_piece(tensor.detach()) for name, tensor in network.state_dict().items()}
        made: dict[int, nn.Parameter] = {}  # by the shard, for layers that share one
        for path, module in list(network.named_modules()):
            if isinstance(module, FSDPModule):
                state = module._get_fsdp_state()
                for handle in (state._pre_forward_hook_handle, state._post_forward_hook_handle):
                    if handle is not None:
                        handle.remove()
                module.__class__ = type(module).__mro__[2]
            for name, shard in module._parameters.items():
                if shard is not None:
                    tensor = full[f"{path}.{name}" if path else name]
                    whole = made.setdefault(id(shard), nn.Parameter(tensor, requires_grad=shard.requires_grad))
                    module._parameters[name] = whole
        self._network = None


def _in_one_piece(tensor: Tensor) -> Tensor:
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Gradients of one type in groups of some BUCKET_BYTES, in order."""
    bucket: list[Tensor] = []
    size_bytes = 0
    for gradient in gradients:
        if bucket and (size_bytes > BUCKET_BYTES or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, size_bytes = [], 0
        bucket.append(gradient)
        size_bytes += gradient.numel() * gradient.element_size()
    if bucket:
        yield bucket


def fail(meeting: Path, rank: int, error: BaseException) -> NoReturn:
    """Leave word of why this process ends, for the first one, and raise it."""
    kind = "memory" if isinstance(error, OutOfMemory) else "reject" if isinstance(error, TaskRefused) else "retry"
    told = {"rank": rank, "class": kind, "reason": f"{type(error).__name__}: {error}"[:500]}
    path = meeting / FAILED.format(rank=rank)
    path.with_suffix(".part").write_text(json.dumps(told), encoding="utf-8")
    os.replace(path.with_suffix(".part"), path)
    raise error
