# One image for the API, the workers and the sweeper; its command is the API.
#
# On PyPI, torch for Linux is the CUDA build. For a small image without CUDA, build with
#   --build-arg PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu

FROM python:3.11-slim AS packages
ARG PIP_EXTRA_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
WORKDIR /build
# The packages change less often than the code: an empty package has the same dependencies, and the layer stays.
COPY pyproject.toml requirements.txt README.md LICENSE ./
RUN mkdir squeezer && touch squeezer/__init__.py \
    && /opt/venv/bin/pip install --constraint requirements.txt '.[torch,onnx,service]' \
    && /opt/venv/bin/pip uninstall --yes squeezer
COPY squeezer squeezer
RUN /opt/venv/bin/pip install --no-deps .

FROM python:3.11-slim
RUN useradd --uid 10001 --create-home squeezer && install --directory --owner squeezer --group squeezer /data
COPY --from=packages /opt/venv /opt/venv
WORKDIR /srv/squeezer
COPY alembic.ini ./
COPY migrations migrations
COPY app app
COPY workers workers
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/srv/squeezer \
    PYTHONUNBUFFERED=1 \
    NUMBA_CACHE_DIR=/home/squeezer/.cache/numba \
    SQUEEZER_DATA_DIR=/data
USER squeezer
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
CMD ["uvicorn", "--factory", "app.main:create_app", "--host", "0.0.0.0", "--port", "8000"]
