/** Names that stand for images of registries. The first use of one makes it a template of the account. */
export interface CatalogueEntry {
  name: string
  image: string
  about: string
}

const hub = 'docker.io/library'

// The tags are moving ones on purpose: a template keeps the version it was made of, a new build takes in the newest. All are there for linux/amd64 and linux/arm64.
export const catalogue: readonly CatalogueEntry[] = [
  { name: 'python-3.12', image: `${hub}/python:3.12-bookworm`, about: 'Python 3.12, pip, compilers' },
  { name: 'python-3.13', image: `${hub}/python:3.13-bookworm`, about: 'Python 3.13, pip, compilers' },
  { name: 'node-22', image: `${hub}/node:22-bookworm`, about: 'Node.js 22, npm, yarn, compilers' },
  { name: 'node-24', image: `${hub}/node:24-bookworm`, about: 'Node.js 24, npm, yarn, compilers' },
  { name: 'bun-1', image: 'docker.io/oven/bun:1-debian', about: 'Bun 1' },
  { name: 'deno-2', image: 'docker.io/denoland/deno:debian-2.4.0', about: 'Deno 2' },
  { name: 'go-1.24', image: `${hub}/golang:1.24-bookworm`, about: 'Go 1.24, git, compilers' },
  { name: 'rust-1', image: `${hub}/rust:1-bookworm`, about: 'Rust and cargo, compilers' },
  { name: 'java-21', image: `${hub}/eclipse-temurin:21-jdk`, about: 'OpenJDK 21' },
  { name: 'ruby-3.4', image: `${hub}/ruby:3.4-bookworm`, about: 'Ruby 3.4, gem, bundler' },
  { name: 'php-8.4', image: `${hub}/php:8.4-cli-bookworm`, about: 'PHP 8.4' },
  { name: 'gcc-14', image: `${hub}/gcc:14-bookworm`, about: 'GCC 14, make' },
  { name: 'debian-12', image: `${hub}/debian:12`, about: 'Debian 12, small' },
  { name: 'ubuntu-24.04', image: `${hub}/ubuntu:24.04`, about: 'Ubuntu 24.04, small' },
  { name: 'ubuntu-22.04', image: `${hub}/ubuntu:22.04`, about: 'Ubuntu 22.04, small' },
  { name: 'alpine-3', image: `${hub}/alpine:3`, about: 'Alpine Linux 3 with musl and busybox' },
  { name: 'busybox', image: `${hub}/busybox:1`, about: 'busybox alone' },
]

export function inCatalogue(name: string): CatalogueEntry | undefined {
  return catalogue.find((entry) => entry.name === name)
}
