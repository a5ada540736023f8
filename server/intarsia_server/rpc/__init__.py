"""The gRPC face: conversion, error mapping and health, and no decision of its own."""
