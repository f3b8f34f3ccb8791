"""Train by MLlib's ALS on a Spark cluster: ratings go there in pieces, factors come back as arrays.

The cluster is reached by Spark Connect, so this side needs neither Java nor Spark's own files. What is
trained is served as every other model of factors.

Source of the solver: Y. Zhou, D. Wilkinson, R. Schreiber, R. Pan, "Large-scale parallel collaborative
filtering for the Netflix Prize" (AAIM 2008), and Y. Hu, Y. Koren, C. Volinsky, "Collaborative filtering for
implicit feedback datasets" (ICDM 2008).
"""

import contextlib
import os
import re
import sys
import threading
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import surprise
from numpy.typing import NDArray

from recommender import listener
from recommender.algorithms.parameters import check_number
from recommender.algorithms.trainset import arrays
from recommender.errors import InputError, RecommenderError

Floats = NDArray[np.float64]
Codes = NDArray[np.int32]

# host:port of Spark Connect, the file with its token, and the account that it runs under on this machine.
ADDRESS, TOKEN_FILE, ACCOUNT = (
    "RECOMMENDER_SPARK",
    "RECOMMENDER_SPARK_TOKEN_FILE",
    "RECOMMENDER_SPARK_ACCOUNT",
)
_DEFAULT = "127.0.0.1:15002"
# Ratings that are sent at a time: 6 MB, which are ten times as much in Connect's memory.
PIECE = 500_000


class SparkALS(surprise.AlgoBase):  # type: ignore[misc]
    """Factors of ratings by ALS on Spark: mean + user's bias + item's bias + product of factors.

    ALS alone has no biases and rates badly. So the damped biases come first, and ALS factors the rest.

    Args:
        n_factors: length of the factors.
        n_epochs: rounds of ALS.
        reg: ridge of the factors; each user's and item's is multiplied by the number of its ratings.
        damping_user, damping_item: average ratings that a bias starts with.
        bias_epochs: rounds over the biases.
        blocks: parts that users and items are cut into, 2 to 4 for each core of the cluster.
        random_state: seed of the first factors.

    Attributes after `fit`: `bu` (n_users,), `bi` (n_items,), `pu` (n_users, n_factors) and `qi` (n_items,
    n_factors).

    Raises ValueError for invalid parameters, RecommenderError where the cluster cannot be used.
    """

    biased = True

    def __init__(
        self,
        n_factors: int = 20,
        n_epochs: int = 15,
        reg: float = 0.1,
        damping_user: float = 5.0,
        damping_item: float = 5.0,
        bias_epochs: int = 10,
        blocks: int = 8,
        random_state: int | None = None,
    ) -> None:
        self.n_factors, self.n_epochs, self.reg, self.blocks = n_factors, n_epochs, reg, blocks
        self.damping_user, self.damping_item, self.bias_epochs = damping_user, damping_item, bias_epochs
        self.random_state = random_state
        super().__init__()

    def fit(self, trainset: surprise.Trainset) -> "SparkALS":
        """Find the biases here and the factors on the cluster."""
        for name in ("damping_user", "damping_item"):
            check_number(name, getattr(self, name), 0)
        check_number("bias_epochs", self.bias_epochs, 0, whole=True)
        super().fit(trainset)
        user, item, rating = arrays(trainset)
        rest = rating - trainset.global_mean
        self.bu, self.bi = np.zeros(trainset.n_users), np.zeros(trainset.n_items)
        of_users, of_items = (
            np.bincount(codes, minlength=n)
            for codes, n in ((user, trainset.n_users), (item, trainset.n_items))
        )
        for _ in range(self.bias_epochs):
            left = np.bincount(item, rest - self.bu[user], trainset.n_items)
            self.bi = left / (of_items + self.damping_item)
            left = np.bincount(user, rest - self.bi[item], trainset.n_users)
            self.bu = left / (of_users + self.damping_user)
        rest -= self.bu[user] + self.bi[item]
        self.pu, self.qi = _factors(self, trainset, user, item, rest, implicit=False)
        return self

    def estimate(self, u: Any, i: Any) -> float:
        """The estimate of a rating; what is unknown adds nothing."""
        known_user, known_item = self.trainset.knows_user(u), self.trainset.knows_item(i)
        estimate = float(self.trainset.global_mean)
        if known_user:
            estimate += self.bu[u]
        if known_item:
            estimate += self.bi[i]
        if known_user and known_item:
            estimate += self.pu[u] @ self.qi[i]
        return float(estimate)


class SparkPicks(surprise.AlgoBase):  # type: ignore[misc]
    """Factors of picks by implicit ALS on Spark: scores order lists, and are no forecast of a rating.

    That a user has rated an item is a pick, the more certain the higher the rating. The score is near 1 for
    what a user picks, laid onto the rating scale as EASE's.

    Args:
        n_factors, n_epochs, reg, blocks, random_state: as SparkALS's.
        alpha: certainty that a rating at the top of the scale adds; what is not rated has certainty 1.

    Attributes after `fit`: `pu` (n_users, n_factors), scaled, and `qi` (n_items, n_factors).

    Raises as SparkALS does.
    """

    def __init__(
        self,
        n_factors: int = 64,
        n_epochs: int = 15,
        reg: float = 0.2,
        alpha: float = 2.0,
        blocks: int = 8,
        random_state: int | None = None,
    ) -> None:
        self.n_factors, self.n_epochs, self.reg, self.blocks = n_factors, n_epochs, reg, blocks
        self.alpha, self.random_state = alpha, random_state
        super().__init__()

    def fit(self, trainset: surprise.Trainset) -> "SparkPicks":
        """Find the factors on the cluster."""
        check_number("alpha", self.alpha, 0, above=True)
        super().fit(trainset)
        user, item, rating = arrays(trainset)
        low, high = trainset.rating_scale
        # the lowest rating is a pick too
        certainty = 0.25 + 0.75 * (rating - low) / (high - low)
        self.pu, self.qi = _factors(self, trainset, user, item, certainty, implicit=True)
        self.pu *= high - low
        return self

    def estimate(self, u: Any, i: Any) -> float:
        """The score of an item for a user; the unknown have the lowest."""
        low = float(self.trainset.rating_scale[0])
        if not (self.trainset.knows_user(u) and self.trainset.knows_item(i)):
            return low
        return float(low + self.pu[u] @ self.qi[i])


KINDS = (SparkALS, SparkPicks)


def _factors(
    algo: Any, trainset: surprise.Trainset, user: Codes, item: Codes, value: Floats, implicit: bool
) -> tuple[Floats, Floats]:
    """Factors of users and items for n values, by ALS."""
    check_number("n_factors", algo.n_factors, 1, whole=True)
    check_number("reg", algo.reg, 0, above=True)
    check_number("blocks", algo.blocks, 1, whole=True)
    with connection() as session, _stored(session, user, item, value) as frame:
        from pyspark.ml.recommendation import ALS

        als = ALS(
            rank=algo.n_factors,
            maxIter=algo.n_epochs,
            regParam=algo.reg,
            numUserBlocks=algo.blocks,
            numItemBlocks=algo.blocks,
            implicitPrefs=implicit,
            alpha=getattr(algo, "alpha", 1.0),
            userCol="user",
            itemCol="item",
            ratingCol="value",
            seed=algo.random_state or 0,
            checkpointInterval=5,
        )
        model = als.fit(frame)
        found = [
            _array(factors.toArrow(), n, algo.n_factors)
            for factors, n in ((model.userFactors, trainset.n_users), (model.itemFactors, trainset.n_items))
        ]
    return found[0], found[1]


def _array(table: Any, n: int, length: int) -> Floats:
    """A row for each of n codes; those without factors get zeros."""
    rows = np.zeros((n, length))
    column = table["features"].combine_chunks()
    rows[table["id"].to_numpy()] = column.flatten().to_numpy().reshape(-1, length)
    return rows


def _await_processor(session: Any, seconds: float = 60) -> None:
    """Return when a first task was done; where that takes longer than `seconds`, standard error says so."""
    said = (
        f"Spark gave no processor for {seconds:.0f} s: others compute there, or no worker is up. "
        "This waits on. On the cluster's master: systemctl status spark-master; docs/spark.md tells more."
    )
    timer = threading.Timer(seconds, print, [said], {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        session.range(1).count()
    finally:
        timer.cancel()


@contextlib.contextmanager
def _stored(session: Any, user: Codes, item: Codes, value: Floats) -> Iterator[Any]:
    """The values as a frame of the cluster with columns user, item and value, sent in pieces.

    On storage that all members see they are a Parquet table, which is dropped afterwards. Otherwise Spark's
    driver holds them: what a lost worker had is computed again from there.
    """
    import pyarrow as pa

    table, views = f"ratings_{uuid.uuid4().hex}", []
    shared = bool(session.conf.get("spark.checkpoint.dir", ""))
    _await_processor(session)
    try:
        for number, at in enumerate(range(0, len(value), PIECE)):
            part = slice(at, at + PIECE)
            columns = {"user": user[part], "item": item[part], "value": value[part].astype(np.float32)}
            piece = session.createDataFrame(pa.table(columns))
            if shared:
                piece.write.mode("append").format("parquet").saveAsTable(table)
            else:
                views.append(f"{table}_{number}")
                piece.createTempView(views[-1])
        frame = session.table(table) if shared else session.table(views[0])
        for view in views[1:]:
            frame = frame.unionAll(session.table(view))
        yield frame
    finally:
        # where Connect has ended this fails too: the first error is told, and its next start removes tables
        with contextlib.suppress(Exception):
            if shared:
                session.sql(f"DROP TABLE IF EXISTS {table}")
            for view in views:
                session.catalog.dropTempView(view)


@contextlib.contextmanager
def connection() -> Iterator[Any]:
    """A session of Spark Connect at $RECOMMENDER_SPARK, which ends with the block."""
    address = os.environ.get(ADDRESS) or _DEFAULT
    if not re.fullmatch(r"[^:]+:\d+", address):
        raise InputError(f"{ADDRESS}={address}: write HOST:PORT, such as {_DEFAULT}.")
    try:
        import grpc
        from pyspark.errors import PySparkException

        # frames of numbers and text pass, as the notebook of the data shows
        warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas", FutureWarning)
        # the error is raised as well
        warnings.filterwarnings("ignore", r"\[RETRIES_EXCEEDED\]")
        from pyspark.sql.connect.client import DefaultChannelBuilder
        from pyspark.sql.connect.client.retries import DefaultPolicy
        from pyspark.sql.connect.session import SparkSession
    except ImportError as error:
        raise InputError(f"--engine spark needs the package pyspark-client here: {error}.") from error

    class Loopback(DefaultChannelBuilder):
        """A channel to this machine: Spark's own, without TLS, sends a token to the name localhost only."""

        def toChannel(self) -> Any:
            credentials = grpc.composite_channel_credentials(
                grpc.local_channel_credentials(), grpc.access_token_call_credentials(_token())
            )
            return self._secure_channel(self.endpoint, credentials)

    # before the token is sent
    listener.check_service(address, os.environ.get(ACCOUNT) or "spark", "Spark Connect")
    try:
        session = SparkSession.builder.channelBuilder(Loopback(f"sc://{address}")).create()
        # the first call waits half a minute for a master that starts again, and not ten for none
        patient = session.client.get_retry_policies()
        session.client.set_retry_policies([DefaultPolicy(max_retries=7, max_backoff=8000)])
        # Spark 4.3 cannot read larger pieces back where it encrypts what it writes
        session.conf.set("spark.sql.session.localRelationCacheThreshold", 4 * 12 * PIECE)
        # it would keep the last sixteen pieces in memory
        session.conf.set("spark.connect.session.planCache.enabled", "false")
        session.client.set_retry_policies(patient)
        try:
            yield session
        finally:
            session.stop()
    except (grpc.RpcError, PySparkException) as error:
        # of what grpc says, the line for people
        found = re.search(r'details = "(.*)"', str(error))
        said = found[1] if found else str(error).partition("\n")[0]
        raise RecommenderError(
            f"Spark at {address}: {said}. Is the cluster up, or the tunnel open? On its master: "
            "systemctl status spark-connect. If it ended in between, it had too little memory: "
            "spark_cluster_driver_memory. docs/spark.md tells more."
        ) from error


def _token() -> str:
    if token := os.environ.get("SPARK_CONNECT_AUTHENTICATE_TOKEN"):
        return token
    path = Path(os.environ.get(TOKEN_FILE) or "/etc/spark-cluster/token")
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}. It has the token of Spark Connect: log in again after site.yml has "
            "put you into its group, or name a copy of it: "
            f"{TOKEN_FILE}=FILE"
        ) from error
