# gaincell with its compiled kernel and ngspice: docker build --tag gaincell . && docker run --rm gaincell doctor
# Checked by .ci/container.py, which runs these steps without Docker where there is none.
FROM python:3.12-slim
RUN apt-get update && apt-get install --yes --no-install-recommends g++ ngspice && rm -rf /var/lib/apt/lists/*
COPY . /opt/gaincell
RUN python -m pip install --no-cache-dir '/opt/gaincell[eval,train,sweep,serve]'
RUN useradd --create-home user
USER user
WORKDIR /home/user
ENTRYPOINT ["gaincell"]
CMD ["--help"]
