# One image for every role; the command chooses: apps/api/src/main.ts (the default), apps/worker/src/main.ts,
# apps/ops/src/main.ts, or `apps/cli/src/main.ts migrate`. There is no build step: Node 24 runs TypeScript directly,
# which it does not do under node_modules, so the layout of the workspace is kept.
ARG NODE_IMAGE=node:24-trixie-slim

# What an installation depends on. A change of the sources alone leaves this stage's result, and the next one's cache.
FROM ${NODE_IMAGE} AS manifests
WORKDIR /lapse
COPY package.json pnpm-lock.yaml pnpm-workspace.yaml ./
COPY apps apps
COPY packages packages
RUN find apps packages -type f ! -name package.json -delete && find apps packages -type d -empty -delete

# Production dependencies of the four apps. `--filter-prod` leaves out what only tests need (embedded PostgreSQL,
# Testcontainers); `--no-optional` leaves out Node from npm and native add-ons, so nothing depends on the platform.
FROM ${NODE_IMAGE} AS dependencies
WORKDIR /lapse
COPY --from=manifests /lapse ./
RUN npx -y "$(node -p 'require("./package.json").packageManager')" install --prod --frozen-lockfile --no-optional \
  --filter-prod '@lapse/api...' --filter-prod '@lapse/worker...' \
  --filter-prod '@lapse/ops...' --filter-prod '@lapse/cli...'

FROM ${NODE_IMAGE}
ENV NODE_ENV=production
WORKDIR /lapse
COPY --from=dependencies /lapse ./
COPY apps apps
COPY packages packages

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Lapse" \
  org.opencontainers.image.description="Payment deadlines for orders: api, worker, ops and command line" \
  org.opencontainers.image.licenses="MIT" \
  org.opencontainers.image.version="${VERSION}" \
  org.opencontainers.image.revision="${REVISION}"

# The user `node`, by number: Kubernetes checks runAsNonRoot only on numbers. Every file belongs to root.
USER 1000:1000
EXPOSE 3000 3001 3002
# Node itself is process 1 and drains on SIGTERM: no shell and no wrapper in between.
STOPSIGNAL SIGTERM
ENTRYPOINT ["node"]
CMD ["apps/api/src/main.ts"]
