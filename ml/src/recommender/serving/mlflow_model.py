"""The script that MLflow stores and runs when it loads the model (models from code): it unpickles nothing."""

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from recommender.errors import InputError
from recommender.serving import Recommender, answer


class MovieRecommender(PythonModel):
    """Loads the recommender's arrays and answers frames, in the two forms that `answer` names."""

    # MLflow finds this parameter by its name.
    def load_context(self, context: PythonModelContext) -> None:
        """Read the arrays; raises InputError for what is damaged, incomplete or of another format."""
        self.recommender = Recommender.load(Path(context.artifacts["recommender"]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Answer one frame; a request without sense is INVALID_PARAMETER_VALUE, servers say as 400."""
        try:
            return answer(self.recommender, model_input)
        except InputError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error


set_model(MovieRecommender())
