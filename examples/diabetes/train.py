"""Train a regression on the diabetes data that come with scikit-learn: how the disease goes on in a year.

Writes diabetes.joblib, and sample.csv with ten rows, beside this file.
"""

import csv
from pathlib import Path

import joblib
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.ensemble import GradientBoostingRegressor

HERE = Path(__file__).parent
NAMES = ("age", "sex", "bmi", "blood pressure", "tc", "ldl", "hdl", "tch", "ltg", "glucose")

data = load_diabetes(scaled=False)
model = GradientBoostingRegressor(random_state=0).fit(data.data, data.target)
joblib.dump(model, HERE / "diabetes.joblib")

with (HERE / "sample.csv").open("w", encoding="utf-8", newline="") as file:
    rows = csv.writer(file)
    rows.writerow(NAMES)
    rows.writerows(np.round(data.data[:10], 4).tolist())
print(f"R2 on the training data: {model.score(data.data, data.target):.2f}")
