"""Train a classification of support tickets, from text, numbers, an enum and missing values that it makes up.

Writes tickets.joblib, and sample.csv with ten rows, beside this file. Needs pandas.
"""

from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

HERE = Path(__file__).parent
MESSAGES = {"low": "how do I change my {}", "normal": "my {} shows an error", "high": "{} is down, we lose money"}

chance = np.random.default_rng(7)
urgency = chance.choice(list(MESSAGES), size=600)
tickets = pd.DataFrame(
    {
        "message": [MESSAGES[each].format(chance.choice(["invoice", "login", "report"])) for each in urgency],
        "channel": chance.choice(["mail", "phone", "chat"], size=600),
        "seats": np.where(chance.random(600) < 0.2, np.nan, chance.integers(1, 500, size=600)),
        "paying": chance.random(600) < 0.7,
    }
)
columns = make_column_transformer(
    (TfidfVectorizer(), "message"),
    (OneHotEncoder(handle_unknown="ignore"), ["channel"]),
    (SimpleImputer(), ["seats"]),
    ("passthrough", ["paying"]),
)
model = make_pipeline(columns, LogisticRegression(max_iter=2000)).fit(tickets, urgency)
joblib.dump(model, HERE / "tickets.joblib")
tickets.head(10).to_csv(HERE / "sample.csv", index=False)
print(f"accuracy on the training data: {model.score(tickets, urgency):.2f}")
