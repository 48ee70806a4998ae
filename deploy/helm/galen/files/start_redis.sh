#!/bin/sh
# Becomes the chart's Redis. Its list of users stands in memory alone: the rules of users.acl, with the
# hashes of the passwords that the Secret has. Where one is missing, Redis does not start.
set -eu
umask 077
cp /etc/redis/users.acl /run/redis/users.acl
for file in /etc/galen/secrets/redis-*-password; do
  user=$(basename "$file" -password)
  user=${user#redis-}
  password=$(cat "$file") # without a newline at its end
  if [ -n "$password" ]; then
    hash=$(printf %s "$password" | sha256sum)
    sed -i "s/#SHA256_OF_$user /#${hash%% *} /" /run/redis/users.acl
  fi
done
exec redis-server /etc/redis/redis.conf --maxmemory "$1"
