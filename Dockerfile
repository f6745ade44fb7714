# The image of all commands: the command after it chooses the program (proxy, sidecar, up, seed …). Node runs
# the TypeScript as it is, so nothing is built; the first stage only fetches the packages that run in
# production. The process is not root, and needs no file it could write but what its --data names: it runs
# with a read-only root.

FROM node:24.21.0-bookworm-slim AS packages
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
# The Node of the image is the one that runs, so the Node packages of npm stay out. npm install and not
# npm ci: see tools/ensure.mjs for where they differ. Both take the lock file's versions and hashes.
RUN npm install --no-save --omit=dev --omit=optional --no-audit --no-fund

FROM node:24.21.0-bookworm-slim
# What Node compiled is kept here, at build: a container's first start is then as quick as its second.
ENV NODE_ENV=production NODE_COMPILE_CACHE=/var/cache/jellybloom
WORKDIR /app
COPY --from=packages /app/node_modules node_modules
COPY package.json package-lock.json ./
COPY tools/ensure.mjs tools/warm.mjs tools/
COPY core core
COPY proxy proxy
COPY sidecar sidecar
COPY cli cli
# By its name, for whoever runs a command in a container that is there.
RUN ln -s /app/cli/jellybloom.mjs /usr/local/bin/jellybloom
# Made and owned here, so that a new volume mounted at /data belongs to the user. A number and not a name,
# because only of a number can Kubernetes tell that it is not root.
RUN install -d -o 1000 -g 1000 /data /var/cache/jellybloom
USER 1000:1000
# By the same user: Node keeps a cache for each.
RUN ["node", "tools/warm.mjs"]
# Of proxy and up: clients, then /jellybloom/ready and /metrics. Of sidecar: all it serves.
EXPOSE 8080 8081 8090
# --listen and --admin are on loopback until the owner says otherwise, in a container too: for a door that
# others can reach the servers behind it must know it as their proxy.
ENTRYPOINT ["node", "/app/cli/jellybloom.mjs"]
CMD ["--help"]
