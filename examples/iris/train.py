"""Train a classification of irises, and write it as ONNX, which is loaded without running any code.

Writes iris.onnx, and sample.csv with ten rows, beside this file. Needs skl2onnx.
"""

import csv
from pathlib import Path

from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

HERE = Path(__file__).parent

data = load_iris()
model = LogisticRegression(max_iter=1000).fit(data.data, data.target_names[data.target])
onnx = to_onnx(model, data.data[:1].astype("float32"), options={"zipmap": False})
(HERE / "iris.onnx").write_bytes(onnx.SerializeToString())

with (HERE / "sample.csv").open("w", encoding="utf-8", newline="") as file:
    rows = csv.writer(file)
    rows.writerow(data.feature_names)
    rows.writerows(data.data[::15].tolist())
print(f"accuracy on the training data: {model.score(data.data, data.target_names[data.target]):.2f}")
