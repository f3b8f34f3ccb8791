"""Train both heads on the embedded ratings by Spark Connect, and print errors of a fold; the factors go into a file.

usage: fit.py OUT [EPOCHS]    with the variables of recommender.algorithms.spark
"""

import json
import pathlib
import sys

import numpy as np

ML = pathlib.Path(__file__).resolve().parents[3] / "ml"
sys.path.insert(0, str(ML / "src"))

from recommender import config  # noqa: E402
from recommender.algorithms import convert, spark, trainset  # noqa: E402
from recommender.data import reading  # noqa: E402


def main() -> None:
    out, epochs = sys.argv[1], int((sys.argv[2:] or ["8"])[0])
    ratings = reading.read(config.load(ML / "conf/spark-als.yaml").data)
    known, held_out = next(trainset.folds(ratings, 5, 0))
    rating = spark.SparkALS(n_factors=8, n_epochs=epochs, reg=0.12, blocks=2, random_state=0).fit(known)
    print("rating head", flush=True)
    lists = spark.SparkPicks(n_factors=8, n_epochs=3, blocks=2, random_state=0).fit(known)
    estimate = convert.scorer(rating, ratings).pairs(ratings.user[held_out], ratings.item[held_out])
    error = np.clip(estimate, *ratings.scale) - ratings.rating[held_out]
    np.savez(out, pu=rating.pu, qi=rating.qi, picks_pu=lists.pu, picks_qi=lists.qi)
    print(json.dumps({"rmse": float(np.sqrt(np.mean(error**2)))}), flush=True)


main()
