# Pafu's image. CPU:  docker build -t pafu:cpu .      GPU:  docker build -t pafu:cuda --build-arg VARIANT=cuda .
# The base only has to bring Python 3.11 or newer with venv; deploy/check-image builds on a plain Debian of its own.
ARG BASE=docker.io/library/python:3.12-slim-bookworm

FROM ${BASE}
ARG VARIANT=cpu
# where torch's CPU build comes from; empty when pip finds one anyway. The CUDA build is the one that PyPI has.
ARG CPU_INDEX=https://download.pytorch.org/whl/cpu
# more extras of pyproject.toml, for example "ray"; the GPU image always has those that public weights need
ARG EXTRAS=""
# a folder of wheels that the build mounts, for machines without a network
ARG PIP_FIND_LINKS=""
# what the labels say
ARG VERSION=""
ARG REVISION=""
SHELL ["/bin/sh", "-eu", "-c"]
WORKDIR /app
# Triton compiles its launchers with a C compiler and Python's headers, which python:slim has and Debian's python3 has not.
# hadolint ignore=DL3008,SC2086
RUN if [ "${VARIANT}" = cuda ]; then \
      headers=$(python3 -c "import pathlib, sysconfig; print('' if pathlib.Path(sysconfig.get_path('include'), 'Python.h').exists() else 'python3-dev')") \
      && apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev ${headers} \
      && rm -rf /var/lib/apt/lists/*; \
    fi
COPY pyproject.toml constraints.txt ./
COPY deploy/requirements.py deploy/
# The dependencies are a layer of their own: a new version of pafu brings 15 MB, not a gigabyte. Wheels are kept between
# builds, not in the image; bytecode is made here, since a read-only container cannot write it later.
# hadolint ignore=SC2086
RUN --mount=type=cache,target=/root/.cache/pip \
    case "${VARIANT}" in \
      cpu) index="${CPU_INDEX:+--extra-index-url ${CPU_INDEX}}"; extras="otel ${EXTRAS}" ;; \
      cuda) index=""; extras="otel wan ${EXTRAS}" ;; \
      *) echo "VARIANT is ${VARIANT}; it must be cpu or cuda" >&2; exit 1 ;; \
    esac; \
    python3 deploy/requirements.py ${extras} > /tmp/requirements.txt \
    && python3 -m venv /opt/pafu \
    && /opt/pafu/bin/pip install --disable-pip-version-check --no-compile ${index} \
       -r /tmp/requirements.txt -c constraints.txt \
    && /opt/pafu/bin/pip uninstall --yes --quiet pip \
    && find /opt/pafu/lib -path "*/site-packages/torch/*" \( -name test -o -name tests \) -type d -prune -exec rm -r {} + \
    && find /opt/pafu/lib -path "*/site-packages/torch/bin/*" -iname "*test*" -type f -delete \
    && rm /tmp/requirements.txt \
    && { python3 -m compileall -qq -j 0 --invalidation-mode unchecked-hash /opt/pafu/lib \
         || echo "some files of packages are templates and no Python: never imported"; } \
    && install -d -o 10001 -g 10001 /data
COPY clients clients
COPY cache cache
COPY model model
COPY server server
RUN python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /app
ENV PATH=/opt/pafu/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/app:/app/clients/python \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    PAFU_HOST=0.0.0.0 \
    PAFU_DATA_DIR=/data \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,video,utility
LABEL org.opencontainers.image.title="Pafu" \
      org.opencontainers.image.description="Real-time streaming video generation" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# /weights: models (PAFU_WEIGHTS=/weights/NAME); /data: what must survive the container
VOLUME ["/weights", "/data"]
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-P", "-m", "server.http.healthcheck"]
# pafu is process 1: it handles SIGTERM itself and waits for its workers
ENTRYPOINT ["python", "-P", "-m", "server.cli"]
CMD ["serve"]
