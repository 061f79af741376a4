# MOYU Explorer as an image. `docker build -t moyu .`, then `docker run -p 8501:8501 -v moyu:/data moyu`; docs/hosting.md has more.
#
#   TORCH    cpu, or the CUDA index of pytorch.org for the torch version in requirements.txt, for instance cu130
#   PROFILE  full, or read: finished runs only, without torch (start it with --read-only)
#   MODEL    baked into the image, or none: then it is fetched into the volume with `moyu fetch`

FROM python:3.11-slim-bookworm AS build
ARG TORCH=cpu
ARG PROFILE=full
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /app
COPY requirements.txt requirements-read.txt ./
RUN python -m venv /venv \
 && if [ "$PROFILE" = read ]; then /venv/bin/pip install -r requirements-read.txt; \
    else /venv/bin/pip install --extra-index-url "https://download.pytorch.org/whl/$TORCH" -r requirements.txt; fi
COPY . .
RUN /venv/bin/python -m compileall -q /app/moyu_core /app/app
ARG MODEL=default
RUN mkdir -p /models/models \
 && if [ "$PROFILE" = full ] && [ "$MODEL" != none ]; then \
      MOYU_HOME=/models /venv/bin/python -m moyu_core.cli fetch "$MODEL" && rm -rf /models/downloads; fi

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="MOYU Explorer" org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 1000 --create-home moyu && mkdir /data && chown moyu:moyu /data
COPY --from=build /venv /venv
COPY --from=build /app /app
COPY --from=build --chown=moyu:moyu /models/models /opt/models
# Everything that is written goes to /data or /tmp, so the root file system can be mounted read-only.
ENV PATH=/venv/bin:$PATH PYTHONPATH=/app PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    MOYU_HOME=/data HOME=/data HF_HOME=/data/huggingface PORT=8501
WORKDIR /app
USER 1000
VOLUME /data
EXPOSE 8501
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
  CMD ["python", "/app/deploy/health.py"]
ENTRYPOINT ["/bin/sh", "/app/deploy/start.sh"]
CMD []
