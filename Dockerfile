# The image of all commands: door, sidecar and the rest. Node runs the TypeScript as it is, so nothing is
# built; the first stage only fetches the packages that run in production. The process is not root, needs
# no file it could write but what --data names, and so runs with a read-only root.

FROM node:24.21.0-bookworm-slim AS packages
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
# The Node of the image is the one that runs, so the Node packages of npm stay out. npm install and not
# npm ci: see tools/ensure.mjs for where they differ. Both take the lock file's versions and hashes.
RUN npm install --no-save --omit=dev --omit=optional --no-audit --no-fund

FROM node:24.21.0-bookworm-slim
ENV NODE_ENV=production
WORKDIR /app
COPY --from=packages /app/node_modules node_modules
COPY package.json package-lock.json ./
COPY tools/ensure.mjs tools/
COPY core core
COPY proxy proxy
COPY sidecar sidecar
COPY cli cli
# Made and owned here, so that a new volume mounted there belongs to the user.
RUN install -d -o node -g node /data
USER node
EXPOSE 8080 8081
# --listen and --admin are on loopback until the owner says otherwise, in a container too: for a door that
# others can reach the servers behind it must know it as their proxy.
ENTRYPOINT ["node", "/app/cli/jellybloom.mjs"]
CMD ["--help"]
