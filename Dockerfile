# docker build -t miipher2 . && docker run --rm -v "$PWD:/audio" miipher2 miipher2 restore /audio/noisy.wav /audio/restored.wav
# Training keeps its runs in a volume: docker run --gpus all -v miipher2-exp:/miipher2/exp miipher2 dvc repro
# The tests: docker run --rm miipher2 pytest
FROM python:3.11-slim-bookworm

RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir uv==0.13.9

WORKDIR /miipher2
# The packages change less often than the code: they are a layer of their own.
COPY pyproject.toml README.md LICENSE ./
RUN uv sync --no-install-project --compile-bytecode --no-cache
COPY . .
RUN uv sync --compile-bytecode --no-cache && git config --global --add safe.directory /miipher2
ENV PATH="/miipher2/.venv/bin:$PATH"
CMD ["miipher2", "--help"]
