"""Define the model as a script that MLflow stores and runs (models from code), without pickle."""

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from recommender.errors import InputError
from recommender.serving import Recommender, answer


class MovieRecommender(PythonModel):
    """Load the recommender's arrays and answer frames, in the two forms of `answer`."""

    # MLflow requires this parameter's name.
    def load_context(self, context: PythonModelContext) -> None:
        """Read the arrays; raises InputError for damaged or missing files and other formats."""
        self.recommender = Recommender.load(Path(context.artifacts["recommender"]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Answer one frame; an invalid request is INVALID_PARAMETER_VALUE, HTTP status 400."""
        try:
            return answer(self.recommender, model_input)
        except InputError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error


set_model(MovieRecommender())
